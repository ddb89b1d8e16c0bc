//! Who is who in the cluster: one authority, a certificate for each program, and a kubeconfig made of it.
//!
//! Names are those that Kubernetes' built-in roles are bound to, so that every component has the rights
//! it has anywhere else, and no more.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use crate::places::{API_SERVICE_ADDRESS, CLUSTER_DOMAIN, NODE_ADDRESS, NODE_DIR, NODE_NAME};

/// A certificate's subject, and the files' name.
struct Subject {
    file: &'static str,
    name: String,
    group: &'static str,
}

/// Where the API server listens.
pub fn api_server() -> String {
    format!("https://{NODE_ADDRESS}:6443")
}

/// Path of a file of this module, as the components see it.
pub fn path(file: &str) -> String {
    format!("{NODE_DIR}/identities/{file}")
}

/// Writes everything below the directory.
pub fn write(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority_key.serialize_pem();
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    let certificate = params.self_signed(&authority_key)?.pem();
    let authority = Issuer::new(params, authority_key);
    put(dir, "authority.crt", &certificate)?;
    put(dir, "authority.key", &authority_pem)?;

    // Tokens of service accounts are signed with a key of their own.
    let tokens = KeyPair::generate()?;
    put(dir, "service-accounts.key", &tokens.serialize_pem())?;
    put(dir, "service-accounts.pub", &tokens.public_key_pem())?;

    let servers = [
        (
            "api-server",
            vec![
                NODE_ADDRESS.to_owned(),
                API_SERVICE_ADDRESS.to_owned(),
                "127.0.0.1".to_owned(),
                "localhost".to_owned(),
                "kubernetes".to_owned(),
                "kubernetes.default".to_owned(),
                "kubernetes.default.svc".to_owned(),
                format!("kubernetes.default.svc.{CLUSTER_DOMAIN}"),
            ],
        ),
        ("kubelet-server", vec![NODE_ADDRESS.to_owned(), NODE_NAME.to_owned()]),
    ];
    for (file, names) in servers {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        signed(dir, file, &mut params, &authority)?;
    }

    let clients = [
        Subject { file: "admin", name: "admin".into(), group: "system:masters" },
        Subject { file: "api-server-client", name: "api-server".into(), group: "system:masters" },
        Subject {
            file: "controller-manager",
            name: "system:kube-controller-manager".into(),
            group: "",
        },
        Subject { file: "scheduler", name: "system:kube-scheduler".into(), group: "" },
        Subject { file: "proxy", name: "system:kube-proxy".into(), group: "" },
        Subject { file: "dns", name: "system:dns".into(), group: "" },
        Subject {
            file: "kubelet",
            name: format!("system:node:{NODE_NAME}"),
            group: "system:nodes",
        },
    ];
    for subject in clients {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
        if !subject.group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, subject.group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        signed(dir, subject.file, &mut params, &authority)?;
        put(dir, &format!("{}.kubeconfig", subject.file), &kubeconfig(dir, subject.file)?)?;
    }
    Ok(())
}

fn signed(
    dir: &Path,
    file: &str,
    params: &mut CertificateParams,
    authority: &Issuer<'_, KeyPair>,
) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let key = KeyPair::generate()?;
    put(dir, &format!("{file}.crt"), &params.signed_by(&key, authority)?.pem())?;
    put(dir, &format!("{file}.key"), &key.serialize_pem())
}

/// With the PEMs inside, so that it works wherever it is copied to. JSON is YAML, too.
fn kubeconfig(dir: &Path, file: &str) -> Result<String> {
    let data = |name: String| -> Result<String> {
        let path = dir.join(name);
        Ok(base64(&fs::read(&path).with_context(|| path.display().to_string())?))
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "e2e", "cluster": {
            "server": api_server(),
            "certificate-authority-data": data("authority.crt".into())?,
        } }],
        "users": [{ "name": file, "user": {
            "client-certificate-data": data(format!("{file}.crt"))?,
            "client-key-data": data(format!("{file}.key"))?,
        } }],
        "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": file } }],
        "current-context": "e2e",
    });
    Ok(config.to_string())
}

fn put(dir: &Path, file: &str, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(file);
    let mut options = fs::OpenOptions::new();
    let open = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| path.display().to_string())
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn every_component_gets_a_kubeconfig_nobody_else_can_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for file in ["admin", "controller-manager", "scheduler", "proxy", "dns", "kubelet"] {
            let path = dir.path().join(format!("{file}.kubeconfig"));
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{file}");
            let text = fs::read(&path).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(config["clusters"][0]["cluster"]["server"], api_server());
        }
    }
}
