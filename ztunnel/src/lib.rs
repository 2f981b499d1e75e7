//! The L4 node proxy, without privileges.
