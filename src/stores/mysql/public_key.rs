//! The RSA key of a server, by which a client encrypts the password if the connection
//! isn't encrypted.

use mysql_common::crypto::der::parse_pub_key_pkcs1;
use mysql_common::crypto::rsa;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::der::{self, asn1::UintRef};
use x509_cert::der::{Decode, Reader, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoRef;

/// The bytes that the padding adds at least.
const PADDING: usize = 42;

/// The lengths of keys that are in use, in bytes. Longer ones would take long.
const SIZES: std::ops::RangeInclusive<usize> = 128..=1024;

pub struct PublicKey {
    key: rsa::PublicKey,
    size: usize,
}

impl PublicKey {
    /// # Errors
    ///
    /// If it is no key in PEM, or one that is not safe to use.
    pub fn of(pem: &[u8]) -> Result<Self, String> {
        let words = || "the server's key to encrypt the password is not a usable RSA key".to_owned();
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| words())?;
        let info = SubjectPublicKeyInfoRef::from_der(&der).map_err(|_| words())?;
        let numbers = info.subject_public_key.as_bytes().ok_or_else(words)?;
        let (modulus, exponent) = parts(numbers).map_err(|_| words())?;
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        // The crate's padding needs a modulus of whole bytes.
        let is_whole = modulus.first().is_some_and(|byte| *byte >= 0x80);
        if !SIZES.contains(&modulus.len()) || !is_whole || !is_odd(modulus) || !is_odd(exponent) || exponent.len() > 8 {
            return Err(words());
        }
        let (modulus_number, exponent_number) = parse_pub_key_pkcs1(numbers);
        Ok(Self {
            key: rsa::PublicKey::new(modulus_number, exponent_number),
            size: modulus.len(),
        })
    }

    /// # Errors
    ///
    /// If the text is too long for this key.
    pub fn encrypt(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        if text.len() + PADDING > self.size {
            return Err("the password is too long for the server's RSA key".into());
        }
        let padding = rsa::Pkcs1OaepPadding::new(rsa::GetRandom);
        Ok(self.key.encrypt_block(text, padding))
    }
}

/// The modulus and the exponent.
fn parts(numbers: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(numbers)?;
    let parts = reader.sequence(|inner| {
        let modulus: UintRef<'_> = inner.decode()?;
        let exponent: UintRef<'_> = inner.decode()?;
        Ok((modulus.as_bytes(), exponent.as_bytes()))
    })?;
    reader.finish(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        let pem = |body: &str| format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        for bad in [
            String::new(),
            "no key".into(),
            pem(""),
            pem("!!!!"),
            pem("MAA="),
            // Of 512 bits.
            pem(
                "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALv+JUJ4MD5kmvVKA4dhKDCAjwm+fbYb\nUlq9Gb5oXqNVvUkeDBXqXBVm8+f4h1HkzyJLOL9BWuk5ki1Zj4SIyzECAwEAAQ==",
            ),
        ] {
            assert!(PublicKey::of(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
