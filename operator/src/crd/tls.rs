//! What a user writes about encryption.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Encryption, for the client port and the peer port apart.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSpec {
    /// The port that clients use.
    #[serde(default)]
    pub client: ClientTls,
    /// The port that members use among themselves; certificates are always asked of both sides.
    #[serde(default)]
    pub peer: PeerTls,
}

/// Where certificates come from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// No encryption.
    #[default]
    None,
    /// The operator has a certificate authority for the cluster, and renews what it issues.
    SelfSigned,
    /// cert-manager issues, by issuerRef.
    CertManager,
    /// Secrets that the user keeps, with tls.crt, tls.key and ca.crt.
    Secret,
}

/// TLS of the client port.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.mode != 'Secret' || has(self.secretName)")
        .message("tls.client.mode Secret needs secretName: a Secret with tls.crt, tls.key and ca.crt"),
    validation = Rule::new("self.mode != 'Secret' || !self.clientAuth || has(self.operatorSecretName)")
        .message("tls.client.mode Secret with clientAuth needs operatorSecretName: a Secret with the certificate the operator shows to members"),
    validation = Rule::new("self.mode != 'CertManager' || has(self.issuerRef)")
        .message("tls.client.mode CertManager needs issuerRef"),
    validation = Rule::new("self.mode != 'None' || !self.clientAuth")
        .message("tls.client.clientAuth needs a tls.client.mode other than None")
)]
pub struct ClientTls {
    /// Where the certificates come from.
    #[serde(default)]
    pub mode: TlsMode,
    /// Demand a certificate of every client.
    #[serde(default)]
    pub client_auth: bool,
    /// Mode Secret: the members' certificate on the client port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Mode Secret with clientAuth: the certificate that the operator shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub operator_secret_name: Option<String>,
    /// Mode CertManager: who issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// TLS of the peer port.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.mode != 'Secret' || has(self.secretName)")
        .message("tls.peer.mode Secret needs secretName: a Secret with tls.crt, tls.key and ca.crt"),
    validation = Rule::new("self.mode != 'CertManager' || has(self.issuerRef)")
        .message("tls.peer.mode CertManager needs issuerRef")
)]
pub struct PeerTls {
    /// Where the certificates come from.
    #[serde(default)]
    pub mode: TlsMode,
    /// Mode Secret: the members' certificate among themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Mode CertManager: who issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// An issuer of cert-manager. It must give certificates with a `ca.crt`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer or ClusterIssuer, or another issuer's kind.
    #[serde(default = "default_issuer_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its group.
    #[serde(default = "default_issuer_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

fn default_issuer_kind() -> String {
    "Issuer".to_owned()
}

fn default_issuer_group() -> String {
    "cert-manager.io".to_owned()
}
