//! `metastore-operator`: keeps MetaStore clusters as their resources say.

fn main() {}
