"""Tables of what devices measure.

`Window`, `Inference`, `Sketch`, `Minute` and `DeadLetter` are partitioned by day (`partitions.py`).

Nothing writes to them through the ORM: ingest copies in bulk, rollups grow from what was really inserted.
"""

from django.db import models


class Version(models.Model):
    """A model run as devices name it. An unknown one is kept and shown: telemetry knows no registry."""

    model = models.CharField(max_length=32)
    version = models.CharField(max_length=24)
    mid = models.CharField(max_length=16)  # first 8 bytes of the manifest id, hex
    first_seen_at = models.DateTimeField()

    class Meta:
        db_table = "tele_version"
        constraints = [models.UniqueConstraint(fields=["mid", "model", "version"], name="tele_version_once")]

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

    class Meta:
        db_table = "tele_minute"

    def __str__(self) -> str:
        return f"{self.version_id} {self.device_class} {self.minute:%F %H:%M}"


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
