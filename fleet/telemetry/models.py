"""Tables of what devices measure.

`Window`, `Inference`, `Sketch`, `Minute` and `DeadLetter` are partitioned by day, `Hour`, `DeviceDay`,
`Accuracy` and `Histogram` by month (`partitions.py`).

Nothing writes to them through the ORM: ingest copies in bulk, rollups grow from what was really inserted.
"""

from django.db import models

from fleet.telemetry import drift_models as drift_models
from fleet.telemetry.arrivals import Arrivals as Arrivals
from fleet.telemetry.calibration_models import Calibration as Calibration
from fleet.telemetry.cold_models import ColdPart as ColdPart
from fleet.telemetry.export_models import ExportJob as ExportJob
from fleet.telemetry.gap_models import Boot as Boot
from fleet.telemetry.gap_models import Gap as Gap
from fleet.telemetry.ingesters import Ingester as Ingester
from fleet.telemetry.label_models import Label as Label
from fleet.telemetry.unproven import UnprovenWindow as UnprovenWindow


class Version(models.Model):
    """A model run as devices name it. An unknown one is kept and shown: telemetry knows no registry."""

    model = models.CharField(max_length=32)
    version = models.CharField(max_length=24)
    mid = models.CharField(max_length=16)  # first 8 bytes of the manifest id, hex
    first_seen_at = models.DateTimeField()
    first_device = models.CharField(max_length=32, blank=True, default="", db_default="")  # that brought it

    class Meta:
        db_table = "tele_version"
        constraints = [models.UniqueConstraint(fields=["mid", "model", "version"], name="tele_version_once")]
        indexes = [models.Index(fields=["first_device", "first_seen_at"], name="tele_version_first")]

    def __str__(self) -> str:
        return f"{self.model} {self.version} {self.mid}"


class Window(models.Model):
    """One telemetry window of one device; counted once by (device, ts, seq).

    `ts` is the device's, never arrival.
    """

    pk = models.CompositePrimaryKey("device_id", "ts", "seq")
    ts = models.DateTimeField()  # end of the window
    seq = models.BigIntegerField()  # boot << 32 | counter
    device_id = models.CharField(max_length=32)
    version_id = models.BigIntegerField()
    dt_ms = models.IntegerField()
    n = models.IntegerField()  # inferences
    us_mean = models.IntegerField()
    us_max = models.IntegerField()
    anom_max = models.IntegerField()  # highest anomaly score, 1e-3
    anom_n = models.IntegerField()
    heap_min = models.IntegerField()  # units of 64 bytes
    lag_s = models.IntegerField()  # arrival - ts
    score = models.SmallIntegerField()  # mean top score, 1e-4
    top = models.SmallIntegerField()  # most frequent class, -1 none
    lab_n = models.SmallIntegerField()  # proxy labels
    lab_ok = models.SmallIntegerField()
    rssi = models.SmallIntegerField()
    flags = models.SmallIntegerField()
    slot = models.SmallIntegerField()
    clock = models.SmallIntegerField()

    class Meta:
        db_table = "tele_window"

    def __str__(self) -> str:
        return f"{self.device_id} {self.ts:%F %T} {self.seq}"


class Inference(models.Model):
    """One sampled inference; a late label finds it by (device, boot << 32 | number in the boot)."""

    pk = models.CompositePrimaryKey("device_id", "sample", "ts")
    sample = models.BigIntegerField()  # boot << 32 | number of the inference in the boot
    ts = models.DateTimeField()
    seq = models.BigIntegerField()
    version_id = models.BigIntegerField()
    device_id = models.CharField(max_length=32)
    anom = models.IntegerField()  # anomaly score, 1e-3
    us = models.IntegerField()
    lag_s = models.IntegerField()
    top = models.SmallIntegerField()  # class, -1 none
    score = models.SmallIntegerField()  # 1e-4
    margin = models.SmallIntegerField()  # 1e-4
    why = models.SmallIntegerField()  # 0 one in N, 1 low margin, 2 anomaly, 3 asked
    slot = models.SmallIntegerField()
    clock = models.SmallIntegerField()

    class Meta:
        db_table = "tele_inference"

    def __str__(self) -> str:
        return f"{self.device_id} {self.ts:%F %T} {self.sample}"


class Sketch(models.Model):
    """One sketch of a model run; counted once by (device, ts, seq)."""

    pk = models.CompositePrimaryKey("device_id", "ts", "seq")
    ts = models.DateTimeField()  # its end
    seq = models.BigIntegerField()
    version_id = models.BigIntegerField()
    device_id = models.CharField(max_length=32)
    duration_s = models.BigIntegerField()
    n = models.IntegerField()  # inferences
    lag_s = models.IntegerField()
    slot = models.SmallIntegerField()
    clock = models.SmallIntegerField()
    body = models.JSONField()  # the rest of `fleet.mqtt.codec.sketch.Sketch` by its names

    class Meta:
        db_table = "tele_sketch"

    def __str__(self) -> str:
        return f"{self.device_id} {self.ts:%F %T} {self.seq}"


class Minute(models.Model):
    """Sums over all windows of a model run and device class that end in a minute.

    Rows per ingesting gateway slot.
    """

    pk = models.CompositePrimaryKey("version_id", "device_class", "minute", "ingest_slot")
    minute = models.DateTimeField()
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    ingest_slot = models.SmallIntegerField()
    windows = models.BigIntegerField()
    n = models.BigIntegerField()
    us_sum = models.BigIntegerField()  # sum of us_mean * n
    us_max = models.IntegerField()
    anom_n = models.BigIntegerField()
    lab_n = models.BigIntegerField()
    lab_ok = models.BigIntegerField()
    score_sum = models.BigIntegerField(default=0)  # sum of score * n, 1e-4

    class Meta:
        db_table = "tele_minute"

    def __str__(self) -> str:
        return f"{self.version_id} {self.device_class} {self.minute:%F %H:%M}"


class Hour(models.Model):
    """What the minutes of a closed hour add up to; written by compaction alone."""

    pk = models.CompositePrimaryKey("version_id", "device_class", "hour")
    hour = models.DateTimeField()
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    windows = models.BigIntegerField()
    n = models.BigIntegerField()
    us_sum = models.BigIntegerField()
    anom_n = models.BigIntegerField()
    lab_n = models.BigIntegerField()
    lab_ok = models.BigIntegerField()
    score_sum = models.BigIntegerField()
    us_max = models.IntegerField()
    first_minute = models.DateTimeField()
    last_minute = models.DateTimeField()

    class Meta:
        db_table = "tele_hour"

    def __str__(self) -> str:
        return f"{self.version_id} {self.device_class} {self.hour:%F %H}"


class DeviceDay(models.Model):
    """Sums of one device and model run over a UTC day.

    Three kinds of accuracy side by side, never added: lab (proxy, from windows), golden (vectors as each
    sketch restates its last self-test), delayed (labels that were joined).
    """

    pk = models.CompositePrimaryKey("day", "device_id", "version_id")
    day = models.DateTimeField()
    device_id = models.CharField(max_length=32)
    version_id = models.BigIntegerField()
    windows = models.BigIntegerField(default=0)
    n = models.BigIntegerField(default=0)
    us_sum = models.BigIntegerField(default=0)
    anom_n = models.BigIntegerField(default=0)
    lab_n = models.BigIntegerField(default=0)
    lab_ok = models.BigIntegerField(default=0)
    score_sum = models.BigIntegerField(default=0)
    golden_n = models.BigIntegerField(default=0)
    golden_ok = models.BigIntegerField(default=0)
    delayed_n = models.BigIntegerField(default=0)
    delayed_ok = models.BigIntegerField(default=0)
    us_max = models.IntegerField(default=0)
    anom_max = models.IntegerField(default=0)

    class Meta:
        db_table = "tele_device_day"

    def __str__(self) -> str:
        return f"{self.device_id} {self.day:%F} {self.version_id}"


class Accuracy(models.Model):
    """Labels and how many agreed, of a model run and device class in an hour, by kind and source.

    kind `proxy`: source `window`, and again by who labelled, `actuator` or `user` (the same labels, from
    sketches). kind `golden`: source `device`. kind `delayed`: who sent the label.
    """

    pk = models.CompositePrimaryKey("version_id", "device_class", "hour", "kind", "source", "ingest_slot")
    hour = models.DateTimeField()
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    kind = models.CharField(max_length=8)
    source = models.CharField(max_length=16)
    ingest_slot = models.SmallIntegerField()
    n = models.BigIntegerField()
    ok = models.BigIntegerField()

    class Meta:
        db_table = "tele_accuracy"

    def __str__(self) -> str:
        return f"{self.version_id} {self.hour:%F %H} {self.kind} {self.source}"


class LiveBin(models.Model):
    """A histogram's bin of an hour that is not compacted yet. metric: `fleet.telemetry.histograms`."""

    pk = models.CompositePrimaryKey("hour", "version_id", "device_class", "metric", "bin", "ingest_slot")
    hour = models.DateTimeField()
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    metric = models.SmallIntegerField()
    bin = models.SmallIntegerField()
    ingest_slot = models.SmallIntegerField()
    n = models.BigIntegerField()

    class Meta:
        db_table = "tele_hist_live"

    def __str__(self) -> str:
        return f"{self.version_id} {self.hour:%F %H} {self.metric}:{self.bin}"


class Histogram(models.Model):
    """A histogram of a model run and device class over an hour or a UTC day.

    counts: of the bins from first_bin on, 8 bytes little-endian each.
    """

    pk = models.CompositePrimaryKey("metric", "span_s", "start", "version_id", "device_class")
    start = models.DateTimeField()
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    metric = models.SmallIntegerField()
    span_s = models.IntegerField()  # 3600 or 86400
    n = models.BigIntegerField()  # sum of the counts
    first_bin = models.SmallIntegerField()
    counts = models.BinaryField()

    class Meta:
        db_table = "tele_hist"

    def __str__(self) -> str:
        return f"{self.version_id} {self.start:%F %H} {self.span_s} s of {self.metric}"


class Baseline(models.Model):
    """The reference of drift: a histogram of a model run and device class over [started_at, ended_at).

    first_bin, counts: as in `Histogram`. inflation: how much more its own windows move than chance, >= 1.
    """

    pk = models.CompositePrimaryKey("version_id", "device_class", "metric")
    version_id = models.BigIntegerField()
    device_class = models.CharField(max_length=32)
    metric = models.SmallIntegerField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    n = models.BigIntegerField()
    first_bin = models.SmallIntegerField()
    counts = models.BinaryField()
    inflation = models.FloatField()
    made_at = models.DateTimeField()

    class Meta:
        db_table = "tele_baseline"

    def __str__(self) -> str:
        return f"{self.version_id} {self.device_class} {self.metric} from {self.started_at:%F}"


class DirtyHour(models.Model):
    """An hour to compact again, because a record of it came late. Any number of marks for an hour.

    Marks are only added, so that a writer never waits; compaction deletes those it sees before it reads.
    """

    hour = models.DateTimeField(db_index=True)
    is_from_raw = models.BooleanField(db_default=False)  # minutes too are made anew first

    class Meta:
        db_table = "tele_dirty"

    def __str__(self) -> str:
        return f"{self.hour:%F %H}"


class Compaction(models.Model):
    """How far compaction has come: every hour before `until` is compacted, but for dirty ones."""

    name = models.CharField(max_length=16, primary_key=True)
    until = models.DateTimeField()

    class Meta:
        db_table = "tele_compaction"

    def __str__(self) -> str:
        return f"{self.name} until {self.until:%F %H}"


class DeviceLast(models.Model):
    """The newest window of each device, by (ts, seq)."""

    device_id = models.CharField(max_length=32, primary_key=True)
    ts = models.DateTimeField()
    seq = models.BigIntegerField()
    version_id = models.BigIntegerField(db_index=True)
    slot = models.SmallIntegerField()
    n = models.IntegerField()
    us_mean = models.IntegerField()
    us_max = models.IntegerField()
    score = models.SmallIntegerField()
    top = models.SmallIntegerField()
    anom_max = models.IntegerField()
    anom_n = models.IntegerField()
    lab_n = models.SmallIntegerField()
    lab_ok = models.SmallIntegerField()
    heap_min = models.IntegerField()
    rssi = models.SmallIntegerField()
    flags = models.SmallIntegerField()

    class Meta:
        db_table = "tele_device_last"

    def __str__(self) -> str:
        return f"{self.device_id} {self.ts:%F %T}"


class DeadLetter(models.Model):
    """An uplink that was refused: why, from where, and its bytes."""

    pk = models.CompositePrimaryKey("at", "id")
    at = models.DateTimeField()
    id = models.BigIntegerField()
    ingest_slot = models.SmallIntegerField()
    device_id = models.CharField(max_length=32)  # from the topic; "" when that is malformed
    topic = models.CharField(max_length=128)
    code = models.CharField(max_length=32)
    detail = models.CharField(max_length=256)
    payload = models.BinaryField()  # at most 4096 bytes of it

    class Meta:
        db_table = "tele_dead"

    def __str__(self) -> str:
        return f"{self.code} {self.topic}"
