//! The pure decision engine for authorization.
