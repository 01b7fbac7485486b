"""The private stack: PostgreSQL, Redis and Mosquitto of one run folder, and the processes of the product.

Bare Python: nothing here imports Django, so the stack can start before a database exists.
"""
