//! SPIFFE identities, certificates, TLS and HBONE.
