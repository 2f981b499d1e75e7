//! Addresses of a workload or service that cannot be decoded.

use std::net::IpAddr;

use prost::Message;

use crate::invalid::ip;

#[derive(Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    workload: Option<Workload>,
    #[prost(message, optional, tag = "2")]
    service: Option<Service>,
}

#[derive(Message)]
struct Workload {
    #[prost(bytes = "vec", repeated, tag = "3")]
    addresses: Vec<Vec<u8>>,
}

#[derive(Message)]
struct Service {
    #[prost(message, repeated, tag = "4")]
    addresses: Vec<NetworkAddress>,
}

#[derive(Message)]
struct NetworkAddress {
    #[prost(bytes = "vec", tag = "2")]
    address: Vec<u8>,
}

/// The addresses in an `istio.workload.Address` that can be decoded, whatever else is in it.
pub fn addresses(bytes: &[u8]) -> Vec<IpAddr> {
    let Ok(Address { workload, service }) = Address::decode(bytes) else {
        return Vec::new();
    };
    let of_workload = workload.into_iter().flat_map(|w| w.addresses);
    let of_service = service.into_iter().flat_map(|s| s.addresses).map(|a| a.address);
    of_workload
        .chain(of_service)
        .filter_map(|bytes| ip(&bytes).ok())
        .collect()
}
