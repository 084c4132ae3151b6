# Sourced by the other steps. Settings of package indexes come from build secrets: no layer keeps them.
#   pip: a pip.conf    uv: a uv.toml    ca: certificates in PEM form, against the system's
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi
if [ -s /run/secrets/uv ]; then export UV_CONFIG_FILE=/run/secrets/uv; fi
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca; fi
