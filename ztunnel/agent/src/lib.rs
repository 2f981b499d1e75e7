//! The node agent: CNI plugin, redirection, socket broker.
