//! The certificates of a cluster, all from one authority, and a kubeconfig for each of its users.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::layout::Layout;

/// A certificate to be made: file name, common name, organisation (a group, to Kubernetes), names and addresses.
struct Leaf {
    file: String,
    user: String,
    group: Option<&'static str>,
    names: Vec<String>,
}

impl Leaf {
    fn user(file: &str, user: &str, group: Option<&'static str>) -> Self {
        Self {
            file: file.into(),
            user: user.into(),
            group,
            names: Vec::new(),
        }
    }
}

/// Writes every key, certificate and kubeconfig of the cluster.
pub(super) fn create(layout: &Layout) -> Result<()> {
    let dir = layout.pki();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::set_permissions(&dir, Permissions::from_mode(0o700))?;

    let key = KeyPair::generate().context("cannot make a key")?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority
        .distinguished_name
        .push(DnType::CommonName, format!("ambit-{}", layout.name));
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = authority
        .self_signed(&key)
        .context("cannot make the certificate authority")?;
    write(&dir.join("ca.crt"), &certificate.pem())?;
    write(&dir.join("ca.key"), &key.serialize_pem())?;
    let issuer = Issuer::new(authority, key);

    let accounts = KeyPair::generate().context("cannot make a key")?;
    write(&dir.join("accounts.key"), &accounts.serialize_pem())?;
    write(&dir.join("accounts.pub"), &accounts.public_key_pem())?;

    for leaf in leaves(layout) {
        issue(&dir, &issuer, &leaf)?;
        let kubeconfig = serde_json::to_string_pretty(&kubeconfig(layout, &leaf.file))?;
        write(&layout.kubeconfig(&leaf.file), &kubeconfig)?;
    }
    Ok(())
}

fn leaves(layout: &Layout) -> Vec<Leaf> {
    let mut api = Leaf::user("apiserver", "kube-apiserver", None);
    let dns = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    api.names = dns.map(String::from).to_vec();
    api.names.extend(["localhost".into(), "127.0.0.1".into()]);
    api.names.extend([
        layout.kubernetes_ip().to_string(),
        layout.control_plane_ip().to_string(),
    ]);
    let mut all = vec![
        api,
        Leaf::user("admin", "ambit-admin", Some("system:masters")),
        Leaf::user(
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
        ),
        Leaf::user("controller-manager", "system:kube-controller-manager", None),
        Leaf::user("scheduler", "system:kube-scheduler", None),
        Leaf::user("proxy", "system:kube-proxy", None),
    ];
    for index in 1..=layout.nodes {
        let name = layout.node_name(index);
        let mut node = Leaf::user(&name, &format!("system:node:{name}"), Some("system:nodes"));
        node.names = vec![name, layout.node_ip(index).to_string()];
        all.push(node);
    }
    all
}

fn issue(dir: &Path, issuer: &Issuer<'_, KeyPair>, leaf: &Leaf) -> Result<()> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = CertificateParams::new(leaf.names.clone())?;
    params
        .distinguished_name
        .push(DnType::CommonName, leaf.user.clone());
    if let Some(group) = leaf.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params
        .signed_by(&key, issuer)
        .with_context(|| format!("cannot certify {}", leaf.user))?;
    write(&dir.join(format!("{}.crt", leaf.file)), &certificate.pem())?;
    write(&dir.join(format!("{}.key", leaf.file)), &key.serialize_pem())
}

/// JSON is YAML too: every reader of a kubeconfig takes it.
fn kubeconfig(layout: &Layout, user: &str) -> serde_json::Value {
    let dir = layout.pki();
    let context = format!("ambit-{}", layout.name);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": context, "cluster": {
            "server": layout.server(),
            "certificate-authority": dir.join("ca.crt"),
        }}],
        "users": [{ "name": user, "user": {
            "client-certificate": dir.join(format!("{user}.crt")),
            "client-key": dir.join(format!("{user}.key")),
        }}],
        "contexts": [{ "name": context, "context": { "cluster": context, "user": user } }],
        "current-context": context,
    })
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_gets_a_certificate_and_a_kubeconfig() {
        let dir = std::env::temp_dir().join(format!("ambit-e2e-pki-{}", std::process::id()));
        let layout = Layout {
            name: "t".into(),
            slot: 0,
            nodes: 2,
            dir: dir.clone(),
            programs: "/p".into(),
        };
        create(&layout).unwrap();
        for user in ["admin", "apiserver", "n1", "n2", "proxy"] {
            assert!(dir.join(format!("pki/{user}.crt")).exists(), "{user}");
            assert!(layout.kubeconfig(user).exists(), "{user}");
        }
        let public = fs::read_to_string(dir.join("pki/accounts.pub")).unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
        fs::remove_dir_all(dir).unwrap();
    }
}
