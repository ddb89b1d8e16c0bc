//! The members a cluster is founded with, and whether this member is rightly among them.
//!
//! Only a first start looks at this: once there is data, the data says who is a member.

use std::collections::{BTreeMap, BTreeSet};

use super::tls::check_peer_url;
use super::url::{Url, texts};
use super::{ClusterState, Config, ConfigError};

/// One member of `--initial-cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: String,
    /// How its peers reach it, sorted.
    pub peer_urls: Vec<Url>,
}

impl Config {
    /// The members of `--initial-cluster`, by name, after the checks etcd makes at a first start:
    /// this member is among them, under the URLs it advertises, and no URL is given twice.
    pub fn initial_members(&self) -> Result<Vec<InitialMember>, ConfigError> {
        let members = parse(&self.initial_cluster)?;
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        let Some(own) = members.get(&self.name) else {
            return contradiction(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        let mut seen = BTreeSet::new();
        for url in members.values().flatten() {
            if !seen.insert(url.to_string()) {
                return contradiction(format!(
                    "initial cluster {} has duplicate url {url}",
                    self.initial_cluster
                ));
            }
            check_peer_url("initial-cluster", url, self.peer_tls.as_ref())?;
        }
        // One that joins has been announced under its URLs already; the cluster knows them best.
        if self.initial_cluster_state == ClusterState::New {
            self.check_own_urls(own)?;
        }
        Ok(members.into_iter().map(|(name, peer_urls)| InitialMember { name, peer_urls }).collect())
    }

    fn check_own_urls(&self, own: &[Url]) -> Result<(), ConfigError> {
        let missing = |from: &[Url], of: &[Url]| -> Vec<String> {
            let named = of.iter().filter(|url| !from.contains(url));
            named.map(|url| format!("{}={url}", self.name)).collect()
        };
        let advertised = &self.advertise_peer_urls;
        let not_advertised = missing(advertised, own);
        if !not_advertised.is_empty() {
            return Err(ConfigError::Contradiction(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                not_advertised.join(","),
                texts(advertised).join(",")
            )));
        }
        let not_in_cluster: Vec<_> =
            advertised.iter().filter(|url| !own.contains(url)).map(Url::to_string).collect();
        if !not_in_cluster.is_empty() {
            return Err(ConfigError::Contradiction(format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                not_in_cluster.join(","),
                self.initial_cluster
            )));
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<Url>>, ConfigError> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        let url = Url::parse(url).map_err(|reason| {
            ConfigError::Contradiction(format!("error setting up initial cluster: {reason}"))
        })?;
        members.entry(name.to_owned()).or_default().push(url);
    }
    for urls in members.values_mut() {
        urls.sort_by_key(Url::to_string);
        // A member named twice is the same member: pods made of one template name all others and
        // themselves, and may be one of the others.
        urls.dedup();
    }
    Ok(members)
}
