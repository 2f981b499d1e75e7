//! The operator: [`index`] turns cluster objects into configuration, [`control`] serves it to the data plane, [`reconcile`]
//! keeps the cluster's own objects as the kinds say.

pub mod control;
pub mod index;
pub mod reconcile;
