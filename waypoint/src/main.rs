//! `ambit-waypoint`.

fn main() {}
