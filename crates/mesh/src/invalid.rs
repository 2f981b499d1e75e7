//! Validation that all messages share, and its errors.

use std::net::IpAddr;
use std::sync::Arc;

use ambit_identity::ParseIdentityError;
use ambit_wire::authorization::address;
use ambit_wire::features;

/// Why a resource of the control plane is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// An address that is neither a workload nor a service.
    #[error("neither a workload nor a service")]
    Kind,
    /// The name of the resource does not match its content.
    #[error("the resource is not named {0:?}")]
    Name(&'static str),
    /// A field that must have a value has none.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Neither an IPv4 nor an IPv6 address.
    #[error("an IP address of {0} bytes")]
    Ip(usize),
    /// A port out of range.
    #[error("port {0} is not between 0 and 65535")]
    Port(u32),
    /// A value that this version does not have.
    #[error("{field} has the unknown value {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// The resource requires a later version.
    #[error("it requires {0:?}, which this version does not have")]
    Requires(String),
    /// Names that do not form an identity.
    #[error(transparent)]
    Identity(#[from] ParseIdentityError),
}

impl Invalid {
    /// Whether no earlier version of the resource may stay in force either: it was written for later versions.
    pub fn is_of_a_later_version(&self) -> bool {
        matches!(self, Self::Requires(_) | Self::Unknown { .. })
    }
}

/// # Errors
/// [`Invalid::Requires`] if this version lacks a feature.
pub fn check_requires(requires: &[String]) -> Result<(), Invalid> {
    match features::missing(requires) {
        Some(feature) => Err(Invalid::Requires(feature.to_owned())),
        None => Ok(()),
    }
}

/// An address from its bytes.
///
/// # Errors
/// [`Invalid::Ip`] if there are neither 4 nor 16.
pub fn ip(bytes: &[u8]) -> Result<IpAddr, Invalid> {
    address(bytes)
        .map(|ip| ip.to_canonical())
        .ok_or(Invalid::Ip(bytes.len()))
}

pub(crate) fn ips<'a>(addresses: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<IpAddr>, Invalid> {
    addresses.into_iter().map(ip).collect()
}

/// `<namespace>/<hostname>`
pub fn service_key(namespace: &str, hostname: &str) -> Arc<str> {
    format!("{namespace}/{hostname}").into()
}
