//! A private authority, as sites have one, and a server's certificate of its making.

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};

/// The certificate of a server on loopback.
pub struct Signed {
    /// The certificate of its authority, in PEM.
    pub ca: String,
    pub cert: Certificate,
    pub key: KeyPair,
}

impl Signed {
    pub fn for_loopback() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        Self { ca: ca.pem(), cert, key }
    }
}
