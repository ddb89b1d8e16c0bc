//! The compiled `.proto` files say exactly what the golden files say: etcd's own descriptors for
//! the packages we share with it, and a record of our own for the rest, so that a changed number or
//! type is a line in a diff.

use std::collections::BTreeSet;
use std::path::Path;

use protox::prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor, ServiceDescriptor};

#[test]
fn etcd_packages_equal_etcds_own_descriptors() {
    compare("golden/etcd.txt", &|package| !package.starts_with("metastore."));
}

#[test]
fn our_packages_equal_their_record() {
    compare("golden/metastore.txt", &|package| package.starts_with("metastore."));
}

#[test]
fn generated_code_has_no_hash_map() {
    for entry in std::fs::read_dir(env!("OUT_DIR")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("HashMap"), "{}", path.display());
    }
}

fn compare(golden: &str, wanted: &dyn Fn(&str) -> bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(golden);
    let text = std::fs::read_to_string(path).expect("golden file");
    let golden: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let ours = dump(wanted);
    let missing: Vec<_> = golden.difference(&ours).collect();
    let surplus: Vec<_> = ours.difference(&golden).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing from our files: {missing:#?}\nnot in the golden file: {surplus:#?}"
    );
}

fn dump(wanted: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let pool = pool();
    let mut lines = BTreeSet::new();
    for message in pool.all_messages().filter(|it| wanted(it.package_name())) {
        dump_message(&mut lines, &message);
    }
    for kind in pool.all_enums().filter(|it| wanted(it.package_name())) {
        dump_enum(&mut lines, &kind);
    }
    for service in pool.services().filter(|it| wanted(it.package_name())) {
        dump_service(&mut lines, &service);
    }
    lines
}

fn dump_message(lines: &mut BTreeSet<String>, message: &MessageDescriptor) {
    lines.insert(format!("message {}", message.full_name()));
    for field in message.fields() {
        let label = match (field.is_list() || field.is_map(), field.is_packed()) {
            (true, true) => "packed ",
            (true, false) => "repeated ",
            (false, _) => "",
        };
        let oneof =
            field.containing_oneof().map(|it| format!(" in {}", it.name())).unwrap_or_default();
        lines.insert(format!(
            "field {} = {} {label}{:?}{oneof}",
            field.full_name(),
            field.number(),
            field.kind()
        ));
    }
}

fn dump_enum(lines: &mut BTreeSet<String>, kind: &EnumDescriptor) {
    lines.insert(format!("enum {}", kind.full_name()));
    for value in kind.values() {
        lines.insert(format!("value {}.{} = {}", kind.full_name(), value.name(), value.number()));
    }
}

fn dump_service(lines: &mut BTreeSet<String>, service: &ServiceDescriptor) {
    for method in service.methods() {
        lines.insert(format!(
            "rpc {} {}{} -> {}{}",
            method.full_name(),
            if method.is_client_streaming() { "stream " } else { "" },
            method.input().full_name(),
            if method.is_server_streaming() { "stream " } else { "" },
            method.output().full_name()
        ));
    }
}

fn pool() -> DescriptorPool {
    let set =
        protox::compile(proto_files(), [env!("CARGO_MANIFEST_DIR")]).expect("valid proto files");
    DescriptorPool::from_file_descriptor_set(set).expect("complete descriptors")
}

fn proto_files() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeSet::new();
    for folder in ["etcd", "metastore"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("proto folder") {
            let name = entry.expect("proto file").file_name().into_string().expect("UTF-8 name");
            files.insert(format!("{folder}/{name}"));
        }
    }
    files
}
