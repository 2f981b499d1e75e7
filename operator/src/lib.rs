//! The operator: [`index`] turns cluster objects into configuration, [`control`] serves the configuration to the data
//! plane, [`reconcile`] brings the cluster's objects into their desired state.

pub mod control;
pub mod gateway;
pub mod index;
pub mod reconcile;
