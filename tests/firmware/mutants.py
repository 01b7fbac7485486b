"""Faults a tired person could put into the core, each with the test of the suite that must notice.

A fault is one replaced piece of text in a copy of the core. `killed_by` is `cuts` or `groups` (the power-cut
programs) or `module::function` of a test below `tests/firmware`, run with all its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault: `old` stands exactly once in `file` of the core's sources and becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    killed_by: str


MUTANTS = (
    # --- what must survive a power cut ---------------------------------------------------------
    Mutant(
        "the sector with the newest record is erased",
        "metalog.c",
        "pos->sector = (uint8_t)(1u - pos->newest);",
        "pos->sector = pos->newest;",
        "cuts",
    ),
    Mutant(
        "a torn position of the log is programmed again",
        "metalog.c",
        "if (!is_blank(core->work + RECORD))",
        "if (0 && !is_blank(core->work + RECORD))",
        "cuts",
    ),
    Mutant(
        "the log turns one record early and loses what follows",
        "metalog.c",
        "(found && r->number <= core->rec.number)",
        "(found && r->number >= core->rec.number)",
        "cuts",
    ),
    Mutant(
        "a record is taken whatever its CRC",
        "metalog.c",
        "|| r->crc != fc_crc32(r, RECORD - 4))",
        ")",
        "test_boot::test_a_flipped_bit_in_the_newest_record_leaves_the_one_before",
    ),
    Mutant(
        "the desired document is overwritten in place",
        "metalog.c",
        "*sector = (uint8_t)(1u - used);",
        "*sector = used;",
        "cuts",
    ),
    Mutant(
        "a stored document is believed without its digest",
        "metalog.c",
        "DOC_AT(doc) + sector * FC_SECTOR, wanted, 8);",
        "DOC_AT(doc) + sector * FC_SECTOR, wanted, 0);",
        "test_records::test_a_flipped_bit_in_a_stored_configuration_is_not_obeyed",
    ),
    Mutant(
        "the running bank is filled",
        "bank.c",
        "return run == FC_NO_BANK ? 0 : (uint8_t)(1u - run);",
        "return run == FC_NO_BANK ? 0 : run;",
        "cuts",
    ),
    Mutant(
        "a written sector is not read back",
        "bank.c",
        "memcmp(back, p + at, part) != 0)",
        "(0 && memcmp(back, p + at, part) != 0))",
        "test_update::test_a_sector_whose_bits_stick_is_seen_by_the_read_back",
    ),
    Mutant(
        "chunks are believed to be there without a look",
        "fetch.c",
        "if (fc_bank_has_chunk(core, j->index) == 1)",
        "if (fc_bank_has_chunk(core, j->index) >= 0)",
        "cuts",
    ),
    Mutant(
        "the other bank still counts as usable while it is overwritten",
        "update.c",
        "    next->flags &= (uint8_t) ~(FC_FLAG_USABLE | FC_FLAG_REVERTING);\n",
        "",
        "test_records::test_a_bank_that_is_being_overwritten_is_no_way_back",
    ),
    Mutant(
        "seq and floor are forgotten when confirming",
        "trial.c",
        "        raise_name(core, r, &core->app[s]->model);",
        "        memset(r->names, 0, 192), raise_name(core, r, &core->app[s]->model);",
        "cuts",
    ),
    Mutant(
        "the bank changes before the confirming record",
        "trial.c",
        "    rs->phase = FC_PH_TRIAL;\n",
        "    rs->phase = FC_PH_TRIAL;\n        rs->run_bank = fc_bank_idle(core, s);\n",
        "cuts",
    ),
    Mutant(
        "seq and floor rise before the model is confirmed",
        "trial.c",
        "r->slots[s].phase = FC_PH_PROBATION;",
        "r->slots[s].phase = FC_PH_PROBATION, r->names[0].seq = j->m.seq;",
        "test_records::test_a_candidate_that_fails_raises_neither_seq_nor_floor",
    ),
    Mutant(
        "the trial starts before its record is in flash",
        "trial.c",
        "    if (fc_log_commit(core) == FC_OK)\n        start(core, group, 0);",
        "    core->rec = *r;\n    start(core, group, 0);",
        "test_trial::test_the_log_says_trial_before_the_engine_sees_a_byte",
    ),
    # --- resets --------------------------------------------------------------------------------
    Mutant(
        "a power loss counts like a panic",
        "boot.c",
        "if (is_crash(core->reset_reason) && ++rs->attempts >= FC_ATTEMPTS_MAX)",
        "if (++rs->attempts >= 1)",
        "cuts",
    ),
    Mutant(
        "attempts are counted in memory only",
        "boot.c",
        "return changed ? fc_log_commit(core) : FC_OK;",
        "core->rec = *r;\n    return changed ? FC_OK : FC_OK;",
        "test_trial::test_resets_in_a_trial_are_counted_by_their_reason",
    ),
    Mutant(
        "one attempt too many",
        "boot.c",
        "++rs->attempts >= FC_ATTEMPTS_MAX",
        "++rs->attempts > FC_ATTEMPTS_MAX",
        "test_trial::test_resets_in_a_trial_are_counted_by_their_reason",
    ),
    Mutant(
        "the running bank is loaded without a look at its digest",
        "run.c",
        "if (memcmp(got, j->m.sha256, 32) == 0) {",
        "if (memcmp(got, j->m.sha256, 32) <= 999) {",
        "test_boot::test_a_flipped_bit_without_a_second_model_is_healed_from_the_broker",
    ),
    Mutant(
        "the old model is loaded unseen after an interrupted trial",
        "trial.c",
        "want_load = j->again ? 2 : 1;",
        "want_load = 1;",
        "test_boot::test_a_worn_old_model_is_not_loaded_after_the_trial_that_a_power_loss_interrupted",
    ),
    Mutant(
        "one of a group reverts without the others",
        "trial.c",
        "        rs->phase = fc_rest_phase(rs);\n        memcpy(rs->failed_id",
        "        if (s == j->slot)\n            rs->phase = fc_rest_phase(rs);\n        memcpy(rs->failed_id",
        "groups",
    ),
    # --- what may run --------------------------------------------------------------------------
    Mutant(
        "the seq that runs may be offered again with other bytes",
        "checks.c",
        "(m->seq == found->seq && memcmp(found->id, m->id, 8) != 0)",
        "(m->seq == found->seq && 0)",
        "test_refusals::test_seq_must_rise_and_an_equal_one_must_be_the_same_model",
    ),
    Mutant(
        "the floor is off by one",
        "checks.c",
        "if (found && m->seq < found->floor)",
        "if (found && m->seq + 1 < found->floor)",
        "test_records::test_action_1_one_below_the_floor_is_refused",
    ),
    Mutant(
        "a signer counts once per signature",
        "cose.c",
        "                count++;\n                break;\n",
        "                count++;\n",
        "test_vectors::test_trust",
    ),
    Mutant(
        "one release key is enough",
        "checks.c",
        "if (core->detail < role->threshold)",
        "if (core->detail < 1)",
        "test_refusals::test_two_release_keys_may_be_needed",
    ),
    Mutant(
        "a revoked key still signs",
        "cose.c",
        "s < msg->n_sigs && !is_revoked(revoked, kid)",
        "s < msg->n_sigs",
        "test_refusals::test_a_revoked_release_key_signs_nothing_new",
    ),
    Mutant(
        "the held roots need not sign their successor",
        "accept.c",
        "if (!roots_signed(core, &core->trust.role[FC_ROOT])) {",
        "if (!core->hal) {",
        "test_vectors::test_trust",
    ),
    Mutant(
        "new roots need not sign for themselves",
        "accept.c",
        "if (!roots_signed(core, &t->role[FC_ROOT]))",
        "if (!core->hal)",
        "test_vectors::test_trust",
    ),
    Mutant(
        "a key may stand in two roles",
        "trust.c",
        "if (memcmp(seen[j], seen[n], 32) == 0)",
        "if (memcmp(seen[j], seen[n], 32) == 0 && j == n)",
        "test_vectors::test_trust",
    ),
    Mutant(
        "a leaf is not compared",
        "bank.c",
        "    if (fits <= 0)\n",
        "    if (fits < 0)\n",
        "test_update::test_a_flipped_bit_in_a_chunk_is_dropped_and_fetched_again",
    ),
    Mutant(
        "the digest of the whole is not read back",
        "update.c",
        "if (memcmp(got, j->part ? j->m.blob_sha256 : j->m.sha256, 32) != 0)",
        "if (0 && memcmp(got, j->part ? j->m.blob_sha256 : j->m.sha256, 32) != 0)",
        "test_update::test_a_model_that_contradicts_its_manifest_is_refused_after_one_refetch",
    ),
    Mutant(
        "the manifest need not be the one desired",
        "fetch.c",
        "if (!fc_is_digest(core->hal, p, n, core->slot[j->slot].target.id, 32))",
        "if (!fc_is_digest(core->hal, p, n, core->slot[j->slot].target.id, 0))",
        "test_update::test_a_manifest_of_other_bytes_is_refused_after_three_tries",
    ),
    Mutant(
        "a model may be one chunk too large",
        "checks.c",
        "m->chunks > sectors - 1 - fc_leaf_sectors(m)",
        "m->chunks > sectors - fc_leaf_sectors(m)",
        "test_update::test_the_largest_model_of_a_slot_fits_and_one_chunk_more_does_not",
    ),
    Mutant(
        "a golden mismatch confirms",
        "trial.c",
        "    if (g->ok != g->n) {",
        "    if (g->ok > g->n) {",
        "test_trial::test_a_golden_mismatch_takes_the_old_model_back",
    ),
    Mutant(
        "probation ends without an acknowledged report",
        "trial.c",
        "int is_enough = j->acked && passed_ms",
        "int is_enough = passed_ms",
        "test_trial::test_probation_needs_inferences_seconds_and_a_report_over_a_new_connection",
    ),
    Mutant(
        "an entry for the candidate under trial looks like a new offer",
        "accept.c",
        "if ((core->job.group >> slot & 1) &&",
        "if ((core->job.group >> slot & 1) > 1 &&",
        "test_records::test_an_entry_that_names_the_candidate_takes_over_its_trial",
    ),
    # --- untrusted bytes -----------------------------------------------------------------------
    Mutant(
        "trailing bytes are accepted",
        "cbor.c",
        "return in.p == in.end ? FC_OK : FC_ERR_SCHEMA;",
        "return in.p <= in.end ? FC_OK : FC_ERR_SCHEMA;",
        "test_vectors::test_cbor",
    ),
    Mutant(
        "numbers longer than shortest are accepted",
        "cbor.c",
        "(uint32_t)v < (size == 1 ? 24u : 1u << (size * 4))",
        "(uint32_t)v < 1",
        "test_vectors::test_cbor",
    ),
    Mutant(
        "a map key may come twice",
        "cbor.c",
        "order = f->last_n < n ? -1 : 1;",
        "order = f->last_n <= n ? -1 : 1;",
        "test_vectors::test_cbor",
    ),
    Mutant(
        "an unprotected header may hold something",
        "cose.c",
        "    fc_in_map(in, 0);",
        "    fc_in_skip(in);",
        "test_vectors::test_manifest",
    ),
    Mutant(
        "the kind in the protected header is not compared",
        "cose.c",
        "if (wanted.n != (size_t)(in->p - start) || memcmp(start, raw, wanted.n) != 0)",
        "if (wanted.n > HEADER_MAX + 2 || start > in->p)",
        "test_vectors::test_manifest",
    ),
    Mutant(
        "a desired document of another installation or topic passes",
        "accept.c",
        "return fc_cose_signers(core->hal, kind, &core->cose, &t->role[FC_ONLINE], t, core->id)",
        "return fc_cose_signers(core->hal, kind, &core->cose, &t->role[FC_ONLINE], t, core->id) <= 9",
        "test_vectors::test_desired",
    ),
    Mutant(
        "an older desired document is taken again",
        "accept.c",
        "if (d->counter < core->rec.desired_counter ||",
        "if (d->counter + (1ull << 32) < core->rec.desired_counter ||",
        "test_accept::test_an_old_desired_document_is_a_replay",
    ),
    Mutant(
        "a command may be replayed",
        "accept.c",
        "if (c->counter <= core->rec.cmd_counter)",
        "if (c->counter < core->rec.cmd_counter)",
        "test_accept::test_a_command_runs_at_most_once",
    ),
    Mutant(
        "a command runs before its counter is persisted",
        "accept.c",
        "    struct fc_record *r = fc_log_edit(core);\n    r->cmd_counter",
        "    uint32_t early = 0;\n    run_verb(core, c, &early);\n"
        "    struct fc_record *r = fc_log_edit(core);\n    r->cmd_counter",
        "test_accept::test_the_counter_is_in_flash_before_the_verb_runs",
    ),
    Mutant(
        "an expired command runs",
        "accept.c",
        "if (c->expires && fc_now(core) >= c->expires)",
        "if (c->expires && fc_now(core) < c->expires)",
        "test_accept::test_an_expired_command_does_nothing",
    ),
    Mutant(
        "the topic is left out of what the MAC protects",
        "cose.c",
        "fc_out_raw(out, owner->device_id, strlen(owner->device_id));",
        "fc_out_raw(out, owner->device_id, kind > FC_K_CMD ? 0 : strlen(owner->device_id));",
        "test_reports::test_reports_are_retained_and_numbered",
    ),
)
