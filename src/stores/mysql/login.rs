//! Logging in: the server's greeting, encryption, and the proof that the client knows
//! the password.

use super::answer::OK;
use super::failure::{ServerError, WireError};
use super::public_key::PublicKey;
use super::wire::{LOGIN_BYTES, Wire, broken};
use mysql_common::constants::CapabilityFlags as Flags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, HandshakePacket, HandshakeResponse, SslRequest};
use mysql_common::proto::MySerialize;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;

/// What a server must be able to do.
const NEEDED: Flags = Flags::CLIENT_PROTOCOL_41
    .union(Flags::CLIENT_SECURE_CONNECTION)
    .union(Flags::CLIENT_PLUGIN_AUTH);

/// What the client can do. A server sends no file requests, no progress and no second
/// answer to a client that hasn't said that it knows them. The first flag tells
/// MariaDB that the client knows nothing that only MariaDB has.
const FLAGS: Flags = Flags::CLIENT_LONG_PASSWORD
    .union(Flags::CLIENT_TRANSACTIONS)
    .union(NEEDED);

/// The protocol's version, and the first byte of a greeting.
const PROTOCOL: u8 = 10;

/// The first byte of a packet that asks for another method, and of one that belongs to
/// a method.
const OTHER_METHOD: u8 = 0xFE;
const MORE: u8 = 1;

/// In answer to the hash of a password: the server knows it, or wants the password.
const ENOUGH: u8 = 3;
const WANTS_PASSWORD: u8 = 4;

/// How many packets may answer the client's first one.
const MOST_PACKETS: usize = 10;

/// As whom to log in, and how.
pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a str,
    pub database: &'a str,
    /// How to encrypt, and the server's name.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Whether nobody else can read what is sent, even if it isn't encrypted.
    pub is_local: bool,
    /// Whether to encrypt the password by a key that the server sends.
    pub allows_key: bool,
}

/// How a client proves that it knows the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Native,
    CachingSha2,
    Sha256,
    Ed25519,
}

impl Method {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"mysql_native_password" => Some(Self::Native),
            b"caching_sha2_password" => Some(Self::CachingSha2),
            b"sha256_password" => Some(Self::Sha256),
            b"client_ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }

    fn nonce_bytes(self) -> usize {
        if self == Self::Ed25519 { 32 } else { 20 }
    }

    fn plugin(self) -> AuthPlugin<'static> {
        match self {
            Self::Native => AuthPlugin::MysqlNativePassword,
            Self::CachingSha2 => AuthPlugin::CachingSha2Password,
            Self::Sha256 => AuthPlugin::Other(b"sha256_password".into()),
            Self::Ed25519 => AuthPlugin::Ed25519,
        }
    }
}

impl Login<'_> {
    /// Returns the connection, which is encrypted if it is to be.
    pub async fn log_in(&self, mut wire: Wire) -> Result<Wire, WireError> {
        wire.begin(LOGIN_BYTES);
        let greeting = wire.read().await?;
        if let Some(error) = ServerError::of(&greeting) {
            return Err(error.into());
        }
        if greeting.first() != Some(&PROTOCOL) {
            return Err(broken("the server's greeting is not one of MySQL").into());
        }
        let greeting: HandshakePacket<'_> = ParseBuf(&greeting).parse(())?;
        let mut flags = FLAGS | (greeting.capabilities() & Flags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA);
        if !greeting.capabilities().contains(NEEDED) {
            return Err(WireError::Refused("the server is too old".into()));
        }
        if let Some((config, name)) = &self.tls {
            if !greeting.capabilities().contains(Flags::CLIENT_SSL) {
                let words = "the server does not support encrypted connections (SSL), which the option tls or ssl-mode \
                    in the URL asks for";
                return Err(WireError::Refused(words.into()));
            }
            flags |= Flags::CLIENT_SSL;
            let request = SslRequest::new(flags | Flags::CLIENT_CONNECT_WITH_DB, PACKET, COLLATION);
            wire.write(&serialized(&request)).await?;
            wire = wire.encrypt(Arc::clone(config), name.clone()).await?;
        }
        // A server may prefer a method that the store can't use, and still accept
        // another one for this user.
        let named = greeting.auth_plugin_name_ref().and_then(Method::of);
        let named = named.filter(|method| *method != Method::Sha256 || self.check_key().is_ok());
        let mut method = named.unwrap_or(Method::Native);
        let mut nonce = greeting.nonce();
        let proof = self.proof(method, &nonce)?;
        let response = HandshakeResponse::new(
            Some(proof),
            // Those of all servers that we support have the same collations.
            (8, 0, 0),
            Some(self.user.as_bytes()),
            Some(self.database.as_bytes()),
            Some(method.plugin()),
            flags,
            None,
            PACKET,
        );
        wire.write(&serialized(&response)).await?;
        for _ in 0..MOST_PACKETS {
            let packet = wire.read().await?;
            if let Some(error) = ServerError::of(&packet) {
                return Err(error.into());
            }
            match &packet[..] {
                [OK, ..] => return Ok(wire),
                // Without a name it is the oldest one.
                [OTHER_METHOD] => return Err(unknown(b"mysql_old_password")),
                [OTHER_METHOD, request @ ..] => {
                    let (name, data) = request.split_at(request.iter().position(|byte| *byte == 0).unwrap_or_default());
                    method = Method::of(name).ok_or_else(|| unknown(name))?;
                    nonce = data.iter().skip(1).take(method.nonce_bytes()).copied().collect();
                    wire.write(&self.proof(method, &nonce)?).await?;
                }
                [MORE, said @ ..] => self.go_on(&mut wire, method, said, &nonce).await?,
                _ => break,
            }
        }
        Err(broken("the server's answers to the login make no sense").into())
    }

    fn is_secret(&self) -> bool {
        self.tls.is_some() || self.is_local
    }

    /// The first thing that a client sends of this method.
    fn proof(&self, method: Method, nonce: &[u8]) -> Result<Vec<u8>, WireError> {
        if method == Method::Sha256 {
            self.check_key()?;
            return Ok(if self.password.is_empty() || self.is_secret() {
                self.clear_password()
            } else {
                vec![WANT_KEY_SHA256]
            });
        }
        let data = method.plugin().gen_data(Some(self.password), nonce);
        Ok(data.map(|data| data.to_vec()).unwrap_or_default())
    }

    /// Answers what the server has to say of this method.
    async fn go_on(&self, wire: &mut Wire, method: Method, said: &[u8], nonce: &[u8]) -> Result<(), WireError> {
        match (method, said) {
            (Method::CachingSha2, [ENOUGH]) => Ok(()),
            (Method::CachingSha2, [WANTS_PASSWORD]) if self.is_secret() => {
                Ok(wire.write(&self.clear_password()).await?)
            }
            (Method::CachingSha2, [WANTS_PASSWORD]) => {
                self.check_key()?;
                Ok(wire.write(&[WANT_KEY_CACHING]).await?)
            }
            // We have asked for a key.
            (Method::CachingSha2 | Method::Sha256, pem) if !self.is_secret() && self.allows_key => {
                let key = PublicKey::of(pem).map_err(|why| broken(&why))?;
                let mut password = self.clear_password();
                for (byte, other) in password.iter_mut().zip(nonce.iter().cycle()) {
                    *byte ^= other;
                }
                let encrypted = key.encrypt(&password).map_err(WireError::Refused)?;
                Ok(wire.write(&encrypted).await?)
            }
            _ => Err(broken("the server's answers to the login make no sense").into()),
        }
    }

    fn clear_password(&self) -> Vec<u8> {
        [self.password.as_bytes(), &[0]].concat()
    }

    /// Whether the server may have the password, encrypted by its key if nothing else
    /// encrypts it.
    fn check_key(&self) -> Result<(), WireError> {
        if self.allows_key || self.is_secret() || self.password.is_empty() {
            return Ok(());
        }
        Err(WireError::Refused(
            "the server asks for the password, and the connection is not encrypted; use the option tls, or, in a network \
            that you trust, allowPublicKeyRetrieval: true, which encrypts the password by a key that the server sends"
                .into(),
        ))
    }
}

/// What asks for the server's key, by method.
const WANT_KEY_CACHING: u8 = 2;
const WANT_KEY_SHA256: u8 = 1;

/// The largest packet that a client may send. The server has its own limit.
const PACKET: u32 = 1 << 30;

const COLLATION: u8 = 45;

fn unknown(name: &[u8]) -> WireError {
    let name = String::from_utf8_lossy(name);
    let name: String = name.chars().take(64).collect();
    WireError::Refused(format!(
        "the server wants {name} for this user, which the store doesn't support; it supports mysql_native_password, \
        caching_sha2_password, sha256_password and client_ed25519"
    ))
}

fn serialized(packet: &impl MySerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.serialize(&mut bytes);
    bytes
}
