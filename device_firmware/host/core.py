"""Typed face of the C firmware core: one `Core` is one device, with its flash in a file.

A `Core` belongs to one thread. The port's and the engine's methods are called from inside `boot`, `link`,
`message`, `step` and `sample`; they must not call back into the same core. An exception in one of them is
printed by cffi and reaches the core as FC_ERR_PORT (-100): it can never look like success.

Call `step` after every other call and when the time it gave is over; it never waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_firmware.host import build
from device_firmware.host.bindings import Anchor, bind, model_of
from device_firmware.host.interface import (
    CODE_NAMES,
    CODES,
    ERR_FULL,
    ERR_PORT,
    Area,
    Config,
    CoreError,
    CoreState,
    CutMode,
    Engine,
    EngineError,
    Ident,
    Model,
    Outcome,
    Phase,
    Port,
    Reset,
    SlotState,
    State,
    Tensor,
    encode_operators,
)

__all__ = [
    "CODES",
    "CODE_NAMES",
    "ERR_FULL",
    "ERR_PORT",
    "Area",
    "Config",
    "Core",
    "CoreError",
    "CoreState",
    "CutMode",
    "Engine",
    "EngineError",
    "Ident",
    "Model",
    "Outcome",
    "Phase",
    "Port",
    "Reset",
    "SlotState",
    "State",
    "Tensor",
    "check_cbor",
    "encode_operators",
    "exit_cut",
]


class Core:
    """One device's firmware. See the module docstring for threads and exceptions."""

    def __init__(self, flash_path: str | Path, ident: Ident, *, engine: Engine, port: Port) -> None:
        """Open or make the flash file and `<flash_path>.keep` beside it.

        Raises CoreError: `schema` for an unusable identity, `flash_io` for a file that is not this device's.
        """
        module = build.load()
        bind(module)
        self._ffi, self._lib = module.ffi, module.lib
        self._anchor = Anchor(engine, port)
        self._handle = self._ffi.new_handle(self._anchor)
        err = self._ffi.new("int *")
        self._h = self._lib.fh_open(str(flash_path).encode(), self._ident(ident), self._port(), err)
        if self._h == self._ffi.NULL:
            raise _core_error(err[0], f"cannot open {Path(flash_path).name}")

    def close(self) -> None:
        """Release the flash file. The core is unusable afterwards; safe to call twice."""
        if self._h != self._ffi.NULL:
            self._lib.fh_close(self._h)
            self._h = self._ffi.NULL

    def boot(self, reason: Reset | int, raw: int = 0) -> None:
        """Start: read the log, count the reset, plan what to load. The work itself is done by `step`."""
        self._ok(self._lib.fh_boot(self._h, int(reason), raw), "boot")

    def link(self, up: bool, fresh: bool = True) -> None:
        """The broker connection came up or went down. fresh: the broker held no session for this device."""
        self._ok(self._lib.fh_link(self._h, int(up), int(fresh)), "link")

    def message(self, topic: str, payload: bytes) -> int:
        """Give a received message to the core. 0 or the negative code it was dropped or refused with."""
        return int(self._lib.fh_message(self._h, topic.encode("utf-8", "replace"), payload, len(payload)))

    def sent(self, token: int) -> None:
        """A QoS 1 publish was acknowledged."""
        self._ok(self._lib.fh_sent(self._h, token), "sent")

    def step(self) -> int:
        """Do one bounded piece of work. Returns ms until the next call is due, 0 = at once."""
        again = self._ffi.new("uint32_t *")
        self._ok(self._lib.fh_step(self._h, again), "step")
        return int(again[0])

    def sample(
        self, slot: int, *, us: int, scores: Sequence[float] = (), label: int = -1, failed: bool = False
    ) -> None:
        """Count one inference of the running model. scores in [0, 1], clamped; label: proxy label or -1."""
        values = [min(10_000, max(0, round(value * 10_000))) for value in scores]
        raw = self._ffi.new("uint16_t[]", values or 1)
        item = self._ffi.new("struct fh_sample *")
        item.slot, item.failed, item.us = slot, int(failed), max(0, min(us, 60_000_000))
        item.scores, item.n_scores, item.label = raw, len(values), label
        self._ok(self._lib.fh_sample(self._h, item), "sample")

    def open_pipeline(self, slot: int = 0, *, frames: int = 0) -> tuple[int, int]:
        """Give the slot's model the shipped pipeline, with ring room for `frames` beyond what it needs.

        Returns (samples, channels) of a window. Raises CoreError: `busy` when no model runs there or its
        front-end's does not, `io_contract` for a model that takes something else than one window of samples.
        """
        window, channels = self._ffi.new("uint32_t *"), self._ffi.new("uint32_t *")
        self._ok(self._lib.fh_app_open(self._h, slot, frames, window, channels), "open_pipeline")
        return int(window[0]), int(channels[0])

    def has_pipeline(self, slot: int = 0) -> bool:
        """The pipeline is open for the model that runs there now."""
        return bool(self._lib.fh_app_ready(self._h, slot))

    def feed(self, samples: npt.NDArray[Any], slot: int = 0) -> None:
        """Samples from the sensor, (frames, channels). Raises CoreError `busy` without a pipeline."""
        data = np.ascontiguousarray(samples, np.float32)
        raw = self._ffi.from_buffer("float[]", data.reshape(-1))
        self._ok(self._lib.fh_app_feed(self._h, slot, raw, len(data)), "feed")

    def gap(self, slot: int = 0) -> None:
        """The sensor lost samples here; no window spans the place."""
        self._ok(self._lib.fh_app_gap(self._h, slot), "gap")

    def infer(self, slot: int = 0, *, label: int = -1) -> Outcome | None:
        """Run the model on the next window and count it. None when no whole window is there.

        Raises CoreError `busy` when the model changed: open the pipeline again.
        """
        raw = self._ffi.new("struct fh_result *")
        result = self._lib.fh_app_step(self._h, slot, label, raw)
        self._ok(result, "infer")
        if result == 0:
            return None
        return Outcome(
            failed=bool(raw.failed),
            us=raw.us,
            scores=tuple(raw.scores[0 : raw.n_scores]),
            anomaly=raw.score if raw.has_score else None,
            **{name: getattr(raw, name) for name in _OUTCOME_NUMBERS},
        )

    def health(self, *, heap_free: int, rssi: int) -> None:
        """Tell free heap in bytes and signal strength in dBm (0 = unknown), measured by the port."""
        self._lib.fh_health(self._h, heap_free, rssi)

    def running(self, slot: int = 0) -> Model | None:
        """The model that may run inferences now: confirmed, or a candidate in probation."""
        out = self._ffi.new("struct fh_model *")
        if self._lib.fh_running(self._h, slot, out) != 1:
            return None
        return model_of(self._ffi, out)

    def state(self) -> CoreState:
        """A snapshot of the core."""
        s = self._ffi.new("struct fh_state *")
        self._ok(self._lib.fh_state(self._h, s), "state")
        config = Config(
            s.config_heartbeat_s,
            s.config_window_s,
            s.config_period_ms,
            s.config_threshold,
            s.config_alarm_k,
            s.config_alarm_n,
            s.config_sample_n,
            s.config_chunk_cap,
            s.config_probation_n,
            s.config_probation_s,
            tuple(key for key in range(32) if s.config_invalid >> key & 1),
        )
        return CoreState(
            s.trust_version,
            s.desired_counter,
            s.cmd_counter,
            s.time_floor,
            s.record_number,
            s.panics,
            bool(s.safe_mode),
            bool(s.stale),
            bool(s.link),
            (s.refusal_code, s.refusal_detail),
            s.dropped_messages,
            s.dropped_chunks,
            s.telemetry_counter,
            s.ring_batches,
            s.ring_bytes,
            s.flash_ops,
            config,
        )

    def slot(self, slot: int = 0) -> SlotState:
        """A snapshot of one slot."""
        s = self._ffi.new("struct fh_slot_state *")
        self._ok(self._lib.fh_slot(self._h, slot, s), "slot")
        raw = {name: getattr(s, name) for name in SlotState.__slots__}
        for name in ("run_id", "other_id", "failed_id"):
            raw[name] = bytes(raw[name])
        return SlotState(**(raw | {"phase": Phase(s.phase), "state": State(s.state)}))

    def clock_set(self, ms: int, unix_s: int) -> None:
        """From now on the core sees only this clock (tests). unix_s 0 = not synchronised."""
        self._lib.fh_clock_set(self._h, ms, unix_s)

    def seed(self, seed: int) -> None:
        """Make jitter and tears repeatable."""
        self._lib.fh_random_seed(self._h, seed)

    def cut_after(self, n_ops: int, mode: CutMode | int = CutMode.TORN) -> None:
        """Cut the power at the n-th flash operation from now: the process ends with status `exit_cut()`."""
        self._lib.fh_cut_after(self._h, n_ops, int(mode))

    def flip(self, area: int, offset: int, bit: int) -> None:
        """Flip one bit of the flash file behind the core's back."""
        self._ok(self._lib.fh_flip(self._h, area, offset, bit), "flip")

    def bad_sector(self, area: int, sector: int, kind: int) -> None:
        """Make a sector fail: 0 good again, 1 erase fails, 2 programmed bits stick, 3 program fails."""
        self._ok(self._lib.fh_bad_sector(self._h, area, sector, kind), "bad_sector")

    def capacity(self, area: int) -> int:
        """Bytes of a flash area, 0 when the device has no such area."""
        return int(self._lib.fh_capacity(self._h, area))

    def flash_read(self, area: int, offset: int, size: int) -> bytes:
        """Read flash for inspection."""
        out = self._ffi.new("uint8_t[]", size)
        self._ok(self._lib.fh_flash_read(self._h, area, offset, out, size), "flash_read")
        return bytes(self._ffi.buffer(out, size))

    def erase_count(self, area: int, sector: int) -> int:
        """How often a sector was erased."""
        return int(self._lib.fh_erase_count(self._h, area, sector))

    def check_manifest(self, slot: int, message: bytes) -> tuple[int, int, Model | None]:
        """Check a manifest as an offer for `slot` would: (code, detail, the manifest when code is 0).

        slot -1: form, signatures, least seq and expiry only, whatever this device is.
        """
        out, detail = self._ffi.new("struct fh_model *"), self._ffi.new("uint32_t *")
        result = int(self._lib.fh_check_manifest(self._h, slot, message, len(message), out, detail))
        return -result, int(detail[0]), model_of(self._ffi, out) if result == 0 else None

    def _ok(self, result: int, what: str) -> None:
        if result < 0:
            raise _core_error(result, what)

    def _ident(self, ident: Ident) -> Any:
        ffi, keep = self._ffi, self._anchor.keep
        raw = ffi.new("struct fh_ident *")
        texts = [
            ffi.new("char[]", text.encode())
            for text in (ident.device_id, ident.firmware_version, ident.esp_nn)
        ]
        raw.device_id, raw.firmware_version, raw.esp_nn = texts
        keep += [raw, *texts]
        for name, size in (("installation_id", 16), ("class_id", 16), ("mac_key", 32)):
            value: bytes = getattr(ident, name)
            if len(value) != size:
                raise CoreError("schema", f"{name} is {len(value)} bytes, {size} are needed")
            setattr(raw, name, value)
        if not 1 <= len(ident.roots) <= 4 or any(len(root) != 32 for root in ident.roots):
            raise CoreError("schema", "one to four root keys of 32 bytes are needed")
        if not 1 <= len(ident.slot_capacity) <= 4:
            raise CoreError("schema", "one to four slot capacities are needed")
        raw.n_roots, raw.root_threshold = len(ident.roots), ident.root_threshold
        for index, root in enumerate(ident.roots):
            raw.roots[index] = root
        for index, capacity in enumerate(ident.slot_capacity):
            raw.slot_capacity[index] = capacity
        numbers = (
            "chip",
            "least_trust_version",
            "boot",
            "arena_bytes",
            "heap_floor",
            "probation_n",
            "probation_s",
        )
        for name in numbers:
            setattr(raw, name, getattr(ident, name))
        ops = encode_operators(ident.operators)
        ops_raw = ffi.new("uint8_t[]", ops)
        keep.append(ops_raw)
        raw.ops_cbor, raw.ops_len = ops_raw, len(ops)
        return raw

    def _port(self) -> Any:
        lib, port = self._lib, self._ffi.new("struct fh_port *")
        self._anchor.keep.append(port)
        port.ctx = self._handle
        for name in ("send", "watch", "unwatch", "reconnect", "may_switch", "reboot", "identify", "log"):
            setattr(port, name, getattr(lib, f"fc_py_{name}"))
        for name in ("check", "load", "invoke", "reset", "unload"):
            setattr(port, f"engine_{name}", getattr(lib, f"fc_py_{name}"))
        if hasattr(self._anchor.engine, "probe"):
            port.engine_probe = lib.fc_py_probe
        if hasattr(self._anchor.port, "capture"):
            port.capture = lib.fc_py_capture
        return port


_OUTCOME_NUMBERS = ("decision", "gaps", "dropped", "resets", "clamped", "faults")


def exit_cut() -> int:
    """Exit status of a process that ended in a simulated power cut."""
    return int(build.load().lib.fh_exit_cut())


def check_cbor(data: bytes) -> int:
    """0 when `data` is one item of the protocol's CBOR, else the code (10, schema)."""
    return -int(build.load().lib.fh_check_cbor(data, len(data)))


def _core_error(result: int, what: str) -> CoreError:
    extra = {ERR_PORT: "port", ERR_FULL: "full"}
    return CoreError(extra.get(result) or CODE_NAMES.get(-result, "internal"), what)
