"""Settings of a TinyFleet installation.

Every value comes from the environment (or `NAME_FILE` naming a file that holds it), then from `<run
dir>/stack.env`, which the private
stack of `manage.py dev` and `deploy/demo` writes. A secret that production needs and nobody gave is a loud
failure, never a default.
"""

from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import EmailValidator

env = environ.FileAwareEnv()

BASE_DIR = Path(__file__).resolve().parent.parent
RUN_DIR = Path(env.str("FLEET_RUN_DIR", default=str(BASE_DIR / ".run")))
if (RUN_DIR / "stack.env").is_file():
    environ.FileAwareEnv.read_env(RUN_DIR / "stack.env")

DEBUG = env.bool("FLEET_DEBUG", default=False)
PRODUCTION = env.bool("FLEET_PRODUCTION", default=False)
_UNSET_SECRET = "unset: only commands that need no secret run with this value"  # noqa: S105
SECRET_KEY = env.str("FLEET_SECRET_KEY", default=_UNSET_SECRET)
if PRODUCTION and SECRET_KEY == _UNSET_SECRET:
    raise ImproperlyConfigured(
        "FLEET_SECRET_KEY (or FLEET_SECRET_KEY_FILE) is not set: `openssl rand -hex 32` makes one"
    )
# Telemetry as JSON without a MAC, for bringing up boards (guide: Telemetry). It is kept apart and counts
# nowhere.
DEBUG_JSON = env.bool("FLEET_DEBUG_JSON", default=False)
if PRODUCTION and DEBUG_JSON:
    raise ImproperlyConfigured(
        "FLEET_DEBUG_JSON lets gateways take telemetry that is not authentic: unset it, or FLEET_PRODUCTION"
    )
ALLOWED_HOSTS = env.list("FLEET_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("FLEET_CSRF_TRUSTED_ORIGINS", default=[])
PUBLIC_URL = env.str("FLEET_WEB_URL", default="http://127.0.0.1:8000")

# Passphrase that seals private signing keys, MAC keys and broker secrets at rest (fleet/sealing.py).
KEY_PASSPHRASE = env.str("FLEET_KEY_PASSPHRASE", default="")

MQTT = {
    "host": env.str("FLEET_MQTT_HOST", default="127.0.0.1"),
    "port": env.int("FLEET_MQTT_PORT", default=8883),
    "ca": env.str("FLEET_MQTT_CA", default=""),
    "users_file": env.str("FLEET_MQTT_USERS_FILE", default=""),
    "password_file": env.str("FLEET_MQTT_PASSWORD_FILE", default=""),
    "pid_file": env.str("FLEET_MQTT_PID_FILE", default=""),
}
# What devices are told to connect to; differs from MQTT behind a load balancer.
MQTT_PUBLIC = {
    "host": env.str("FLEET_MQTT_PUBLIC_HOST", default=MQTT["host"]),
    "port": env.int("FLEET_MQTT_PUBLIC_PORT", default=MQTT["port"]),
}

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "ninja",
    "django_htmx",
    "fleet.accounts",
    "fleet.devices",
    "fleet.telemetry",
    "ota",
    "fleet.alerts",
    "fleet.gateway",
    "fleet.api",
    "fleet.console",
]
MIDDLEWARE = [
    "fleet.long_answers.GiveBackMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "fleet.accounts.middleware.RequestIdMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "fleet.console.compression.CompressionMiddleware",
    "fleet.console.middleware.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "fleet.urls"
ASGI_APPLICATION = "fleet.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "fleet.console.context.frame",
            ],
        },
    },
]

DATABASES = {"default": env.db("DATABASE_URL", default="postgresql://127.0.0.1:5432/tinyfleet")}
DATABASES["default"]["CONN_MAX_AGE"] = 0
DATABASES["default"].setdefault("OPTIONS", {})
if env.bool("FLEET_DB_POOL", default=False):  # web processes: a request waits for one of eight connections
    # After 5 s without one: 503. A pool that could not connect tries again for the next request, and a
    # connection that the database cut meanwhile is noticed before a request gets it.
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1, "max_size": 8, "timeout": 5, "reconnect_timeout": 5,
    }  # fmt: skip
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DATABASES["default"].setdefault("TEST", {"NAME": "test_tinyfleet"})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}

# Figures that took longer to count are shown again for some seconds, with the time of which they are.
SLOW_COUNT_S = env.float("FLEET_SLOW_COUNT_S", default=0.05)

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "console:login"

# Sign-in with an identity provider (OpenID Connect): off unless FLEET_OIDC_ISSUER names one. Its addresses
# are given and not discovered, so that the installation starts while the provider is away.
OIDC_ISSUER = env.str("FLEET_OIDC_ISSUER", default="")
OIDC_NAME = env.str("FLEET_OIDC_NAME", default="your organisation")
OIDC_RP_CLIENT_ID = env.str("FLEET_OIDC_CLIENT_ID", default="")
OIDC_RP_CLIENT_SECRET = env.str("FLEET_OIDC_CLIENT_SECRET", default="")
OIDC_OP_AUTHORIZATION_ENDPOINT = env.str("FLEET_OIDC_AUTHORIZATION_URL", default="")
OIDC_OP_TOKEN_ENDPOINT = env.str("FLEET_OIDC_TOKEN_URL", default="")
OIDC_OP_USER_ENDPOINT = env.str("FLEET_OIDC_USERINFO_URL", default="")
OIDC_OP_JWKS_ENDPOINT = env.str("FLEET_OIDC_JWKS_URL", default="")
OIDC_RP_SIGN_ALGO = env.str("FLEET_OIDC_ALGORITHM", default="RS256")
OIDC_RP_SCOPES = env.str("FLEET_OIDC_SCOPES", default="openid email profile")
OIDC_ROLES = env.dict("FLEET_OIDC_ROLES", default={})  # value of the claim=role, parted by commas
OIDC_ROLE_CLAIM = env.str("FLEET_OIDC_ROLE_CLAIM", default="roles")
OIDC_GROUP_CLAIM = env.str("FLEET_OIDC_GROUP_CLAIM", default="")
OIDC_VERIFY_KID = env.bool("FLEET_OIDC_VERIFY_KID", default=True)  # off: for a provider with one nameless key
OIDC_USE_PKCE = True
OIDC_TIMEOUT = 10  # seconds, for each of its answers
OIDC_AUTHENTICATION_CALLBACK_URL = "console:oidc-callback"
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
if OIDC_ISSUER:
    AUTHENTICATION_BACKENDS.append("fleet.accounts.oidc_backend.OidcBackend")
    for _name in (
        *("CLIENT_ID", "CLIENT_SECRET", "AUTHORIZATION_URL", "TOKEN_URL", "USERINFO_URL", "JWKS_URL"),
    ):
        if not env.str(f"FLEET_OIDC_{_name}", default=""):
            raise ImproperlyConfigured(f"FLEET_OIDC_ISSUER is set, and FLEET_OIDC_{_name} is not")
    if _unknown := set(OIDC_ROLES.values()) - {"viewer", "operator", "approver", "admin"}:
        raise ImproperlyConfigured(f"FLEET_OIDC_ROLES names {sorted(_unknown)[0]!r}, which is no role")
LOGIN_REDIRECT_URL = "console:overview"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PRODUCTION
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"  # no other site's pages ask in a person's name: fleet/console/compression.py
SESSION_COOKIE_AGE = 12 * 3600
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
STATIC_URL = "/static/"
STATIC_ROOT = RUN_DIR / "static"
WHITENOISE_USE_FINDERS = True
WHITENOISE_SKIP_COMPRESS_EXTENSIONS = ("map", "png", "gz")  # source maps: megabytes that nobody asks for
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "fleet.console.static_files.CollectedFiles"},
}

# Uploads: a model up to 16 MiB and an evaluation set up to 32 MiB; the endpoints refuse more before reading
# on.
MODEL_UPLOAD_BYTES = 16 * 1024 * 1024
EVALUATION_UPLOAD_BYTES = 32 * 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024  # labels; other bodies of the API end at fleet.api.limits
FILE_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

# Large exports are written here by workers and read by web servers. Raw telemetry past retention is kept as
# Parquet under COLD_DIR, when that is set (the extra `cold`).
EXPORT_DIR = Path(env.str("FLEET_EXPORT_DIR", default=str(RUN_DIR / "exports")))
COLD_DIR = env.str("FLEET_COLD_DIR", default="")

# Calls that each API token may make a minute (fleet/api/rates.py); 0 sets no limit.
API_RATES = {
    "reads": env.int("FLEET_RATE_READS", default=600),
    "writes": env.int("FLEET_RATE_WRITES", default=120),
    "telemetry-queries": env.int("FLEET_RATE_QUERIES", default=60),
}

# Event streams that one token or session may have open at once on one web process.
STREAMS_PER_CALLER = env.int("FLEET_STREAMS_PER_CALLER", default=20)

# A rollout to more devices than this needs a second person's approval; 0 asks for one always.
APPROVAL_OVER = env.int("FLEET_APPROVAL_OVER", default=100)

# Days that the audit trail is kept (fleet/accounts/audit_retention.py); 0 keeps it for good.
AUDIT_DAYS = env.int("FLEET_AUDIT_DAYS", default=730)
if AUDIT_DAYS and AUDIT_DAYS < 30:
    raise ImproperlyConfigured(
        f"FLEET_AUDIT_DAYS is {AUDIT_DAYS}: 0 keeps the trail for good, else 30 or more"
    )

# Webhooks reach public addresses only, unless receivers stand in the same private network.
WEBHOOK_ALLOW_PRIVATE = env.bool("FLEET_WEBHOOK_ALLOW_PRIVATE", default=False)

# E-mail about alerts: FLEET_ALERT_EMAILS names who gets it, FLEET_EMAIL_URL the server that takes it
# (smtp+tls://user:password@mail.example.org:587; its parts are percent-encoded). Addresses stand here and not
# in the database, as on-call lists do: who is told of faults is decided by who runs the service.
ALERT_EMAILS = env.list("FLEET_ALERT_EMAILS", default=[])
DEFAULT_FROM_EMAIL = env.str("FLEET_EMAIL_FROM", default="tinyfleet@localhost")
EMAIL_TIMEOUT = 5  # seconds, for each command
EMAIL_IS_CONFIGURED = bool(env.str("FLEET_EMAIL_URL", default=""))
if EMAIL_IS_CONFIGURED:
    vars().update(env.email_url("FLEET_EMAIL_URL"))
elif ALERT_EMAILS:
    raise ImproperlyConfigured("FLEET_ALERT_EMAILS is set, and FLEET_EMAIL_URL is not: smtp://127.0.0.1:25")
for _address in (*ALERT_EMAILS, DEFAULT_FROM_EMAIL.rpartition("<")[2].rstrip(">")):
    try:
        EmailValidator()(_address)
    except ValidationError:
        _names = "FLEET_ALERT_EMAILS or FLEET_EMAIL_FROM"
        raise ImproperlyConfigured(f"{_address[:80]!r} in {_names} is no address") from None

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_DEFAULT_QUEUE = "default"

LOG_LEVEL = env.str("FLEET_LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "fleet.logs.json_formatter"}},
    "filters": {"routine": {"()": "fleet.logs.WithoutRoutine"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["routine"]}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {"django.request": {"level": "ERROR"}, "httpx": {"level": "WARNING"}},
}
LOGGING_CONFIG = "fleet.logs.configure"
