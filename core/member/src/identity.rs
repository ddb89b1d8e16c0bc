//! Who is who: ids are derived as etcd derives them (`server/etcdserver/api/membership`), so that a
//! cluster founded with the same flags has the same ids.

use sha1::{Digest as _, Sha1};

/// Id of a member by the URLs its peers reach it under. A founder's also depends on the cluster's
/// token.
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(cluster_token.as_bytes());
    first_eight(&hash.finalize())
}

/// Id of the cluster these members found.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(&hash.finalize())
}

fn first_eight(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.7.3 names them when it is started without any flag.
    #[test]
    fn a_member_without_flags_has_the_ids_it_has_in_etcd() {
        let member = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(format!("{member:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member])), "cdf818194e3a8c32");
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        let [a, b] = ["http://a:1".to_owned(), "http://b:2".to_owned()];
        assert_eq!(member_id(&[a.clone(), b.clone()], "t"), member_id(&[b, a], "t"));
        assert_eq!(cluster_id(&[3, 1, 2]), cluster_id(&[1, 2, 3]));
    }
}
