"""The bytes of the device protocol: CBOR, COSE and the uplink documents. Bare Python, no Django.

The contract is `device_firmware/SPEC.md`; `tests/vectors/` holds bytes that this package and the C core
must judge alike.
"""
