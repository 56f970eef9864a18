//! How two daemons come to trust each other.
//!
//! ```text
//! dialer                                                   listener
//!   Hello { version, role, name, boot, nonce }        ──►
//!                                                     ◄──  Challenge { role, name, boot, nonce, mac }
//!   Proof { mac }                                     ──►
//!                                                     ◄──  Welcome, or Refused { why } at any point
//! ```
//!
//! Each mac is an HMAC-SHA256 with the cluster's key over the direction, everything that both have
//! said, and under TLS a value that only the two ends of that TLS connection know. So neither a
//! replay, nor a reflection, nor an attacker who relays between two TLS connections gets through.
//!
//! The encoding and the macs are pure; at the end stand the two exchanges over a socket.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use crate::random::random_bytes;

use super::frame::{self, HANDSHAKE_FRAME_LEN_MAX, HEADER_LEN, Head, LinkFrame};
use super::identity::{Identity, Role};

/// The label of a value that both ends of a TLS connection derive from it, and no others can.
pub(super) const BINDING_LABEL: &[u8] = b"EXPORTER-talkhub-link";

const VERSION: u16 = 1;
const NONCE_LEN: usize = 32;
const MAC_LEN: usize = 32;
/// How many bytes of a name are sent at most: its length is sent as one byte.
const NAME_LEN_MAX: usize = 255;

/// What a peer says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) boot: u64,
}

/// What the socket itself says about the two ends.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// Under TLS: known only to the two ends of this connection. Otherwise empty.
    pub(super) binding: Vec<u8>,
    /// Under TLS: the peer's certificate, which is valid, but for a role still to be checked.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

/// Why a handshake ended without a link.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("exchange frames")]
    Io(#[from] io::Error),
    #[error("no handshake in time")]
    TimedOut,
    #[error("not a handshake of ours")]
    Malformed,
    #[error("the keys differ")]
    Key,
    #[error("the role is not expected here")]
    Role,
    #[error("the versions differ")]
    Version,
    #[error("the certificate is not for that role")]
    Certificate,
    #[error("refused by the peer: {0}")]
    RefusedByPeer(&'static str),
    #[error("there is a link to that daemon already")]
    Known,
}

impl HandshakeError {
    /// Whether an operator must look: it will not go away by itself.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Key | Self::Role | Self::Version | Self::Certificate | Self::RefusedByPeer(_)
        )
    }

    /// What the peer is told.
    fn code(&self) -> Option<u8> {
        match self {
            Self::Key => Some(1),
            Self::Role => Some(2),
            Self::Version => Some(3),
            Self::Certificate => Some(4),
            _ => None,
        }
    }

    fn from_code(body: &Bytes) -> Self {
        Self::RefusedByPeer(match body.first() {
            Some(1) => "the keys differ",
            Some(2) => "our role is not expected there",
            Some(3) => "the versions differ",
            Some(4) => "our certificate is not for our role",
            _ => "no reason given",
        })
    }
}

/// Which of the two proves itself.
#[derive(Debug, Clone, Copy)]
enum Prover {
    Listener,
    Dialer,
}

/// What both have said, which is what the macs are over.
struct Transcript<'a> {
    hello: &'a [u8],
    /// Without its mac.
    challenge: &'a [u8],
    binding: &'a [u8],
}

impl Transcript<'_> {
    fn bytes(&self, prover: Prover) -> Vec<u8> {
        let label: &[u8] = match prover {
            Prover::Listener => b"talkhub link listener\0",
            Prover::Dialer => b"talkhub link dialer\0\0\0",
        };
        let mut bytes = label.to_vec();
        for part in [self.hello, self.challenge, self.binding] {
            bytes.put_u64(part.len() as u64);
            bytes.extend_from_slice(part);
        }
        bytes
    }

    fn sign(&self, prover: Prover, identity: &Identity) -> hmac::Tag {
        hmac::sign(&identity.key.0, &self.bytes(prover))
    }

    /// Takes the same time however much of the mac is right.
    fn verify(
        &self,
        prover: Prover,
        identity: &Identity,
        mac: &[u8],
    ) -> Result<(), HandshakeError> {
        hmac::verify(&identity.key.0, &self.bytes(prover), mac)
            .map_err(|_differs| HandshakeError::Key)
    }
}

/// Both `Hello` and `Challenge` begin like this.
fn introduction(identity: &Identity) -> Vec<u8> {
    // A half of a character would be no text to the peer.
    let cut = identity.name.floor_char_boundary(NAME_LEN_MAX);
    let name = identity.name.as_bytes().get(..cut).unwrap_or_default();
    let mut bytes = Vec::new();
    bytes.put_u16(VERSION);
    bytes.put_u8(identity.role as u8);
    bytes.put_u8(u8::try_from(name.len()).expect("cut to 255 bytes"));
    bytes.extend_from_slice(name);
    bytes.put_u64(identity.boot);
    bytes.extend_from_slice(&random_bytes::<NONCE_LEN>());
    bytes
}

/// Reads an introduction off `bytes`, and leaves what follows it.
pub(super) fn parse_introduction(bytes: &mut Bytes) -> Result<Claim, HandshakeError> {
    let cut = |_missing| HandshakeError::Malformed;
    if bytes.try_get_u16().map_err(cut)? != VERSION {
        return Err(HandshakeError::Version);
    }
    let role = bytes.try_get_u8().map_err(cut)?;
    let name_len = usize::from(bytes.try_get_u8().map_err(cut)?);
    if bytes.len() < name_len {
        return Err(HandshakeError::Malformed);
    }
    let name = bytes.split_to(name_len);
    let boot = bytes.try_get_u64().map_err(cut)?;
    if bytes.len() < NONCE_LEN {
        return Err(HandshakeError::Malformed);
    }
    bytes.advance(NONCE_LEN);

    let role = Role::from_number(role).ok_or(HandshakeError::Role)?;
    let name = String::from_utf8(name.to_vec()).map_err(|_text| HandshakeError::Malformed)?;
    // Names end up in logs and metrics.
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(HandshakeError::Malformed);
    }
    Ok(Claim { role, name, boot })
}

/// A `Challenge` without its mac, what its sender says it is, and the mac.
pub(super) fn parse_challenge(body: &Bytes) -> Result<(Bytes, Claim, Bytes), HandshakeError> {
    let signed_len = body.len().checked_sub(MAC_LEN).ok_or(HandshakeError::Malformed)?;
    let (signed, mac) = (body.slice(..signed_len), body.slice(signed_len..));
    let mut rest = signed.clone();
    let claim = parse_introduction(&mut rest)?;
    if rest.is_empty() { Ok((signed, claim, mac)) } else { Err(HandshakeError::Malformed) }
}

/// Under TLS the certificate must be for the role that is claimed.
fn check_certificate(channel: &Channel, role: Role) -> Result<(), HandshakeError> {
    let Some(certificate) = &channel.certificate else { return Ok(()) };
    let wrong = |_error| HandshakeError::Certificate;
    let name = role.certificate_name();
    let name = name.as_str().try_into().map_err(|_name| HandshakeError::Certificate)?;
    let certificate = ParsedCertificate::try_from(certificate).map_err(wrong)?;
    rustls::client::verify_server_name(&certificate, &name).map_err(wrong)
}

/// The dialer's side. `admit` sees which daemon answers before the dialer proves itself, and may
/// decline.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    identity: &Identity,
    expects: Role,
    channel: &Channel,
    admit: impl FnOnce(&Claim) -> bool,
) -> Result<Claim, HandshakeError> {
    let hello = introduction(identity);
    write(socket, frame::HELLO, &hello).await?;

    let challenge = read(socket, frame::CHALLENGE).await?;
    let (challenge, claim, mac) = parse_challenge(&challenge)?;
    let transcript = Transcript { hello: &hello, challenge: &challenge, binding: &channel.binding };
    transcript.verify(Prover::Listener, identity, &mac)?;
    if claim.role != expects {
        return Err(HandshakeError::Role);
    }
    check_certificate(channel, claim.role)?;
    if !admit(&claim) {
        return Err(HandshakeError::Known);
    }

    write(socket, frame::PROOF, transcript.sign(Prover::Dialer, identity).as_ref()).await?;
    read(socket, frame::WELCOME).await?;
    Ok(claim)
}

/// The listener's side.
pub(super) async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    identity: &Identity,
    accepts: &[Role],
    channel: &Channel,
) -> Result<Claim, HandshakeError> {
    let judged = judge(socket, identity, accepts, channel).await;
    if let Some(code) = judged.as_ref().err().and_then(HandshakeError::code)
        && let Err(error) = write(socket, frame::REFUSED, &[code]).await
    {
        debug!(%error, "gone before it was refused");
    }
    judged
}

async fn judge<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    identity: &Identity,
    accepts: &[Role],
    channel: &Channel,
) -> Result<Claim, HandshakeError> {
    let hello = read(socket, frame::HELLO).await?;
    let mut rest = hello.clone();
    let claim = parse_introduction(&mut rest)?;
    if !rest.is_empty() {
        return Err(HandshakeError::Malformed);
    }

    let mut challenge = introduction(identity);
    let transcript = Transcript { hello: &hello, challenge: &challenge, binding: &channel.binding };
    let mac = transcript.sign(Prover::Listener, identity);
    let expected = transcript.bytes(Prover::Dialer);
    challenge.extend_from_slice(mac.as_ref());
    write(socket, frame::CHALLENGE, &challenge).await?;

    let proof = read(socket, frame::PROOF).await?;
    hmac::verify(&identity.key.0, &expected, &proof).map_err(|_differs| HandshakeError::Key)?;
    // After the key: a stranger does not learn which roles are welcome.
    if !accepts.contains(&claim.role) {
        return Err(HandshakeError::Role);
    }
    check_certificate(channel, claim.role)?;
    write(socket, frame::WELCOME, &[]).await?;
    Ok(claim)
}

async fn write<S: AsyncWrite + Unpin>(socket: &mut S, kind: u16, body: &[u8]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(HEADER_LEN + body.len());
    let head = Head { kind, answer: false, request: 0 };
    frame::put(&mut buffer, head, |buffer| buffer.extend_from_slice(body))
        .expect("a handshake frame is short");
    socket.write_all(&buffer).await?;
    socket.flush().await
}

/// Reads exactly one frame, which must be of that kind, and nothing of what follows it.
async fn read<S: AsyncRead + Unpin>(socket: &mut S, kind: u16) -> Result<Bytes, HandshakeError> {
    let mut buffer = BytesMut::with_capacity(256);
    loop {
        match frame::split(&mut buffer, HANDSHAKE_FRAME_LEN_MAX) {
            Ok(Some(LinkFrame { kind: frame::REFUSED, body, .. })) => {
                return Err(HandshakeError::from_code(&body));
            }
            Ok(Some(frame)) if frame.kind == kind => return Ok(frame.body),
            Ok(Some(_)) | Err(_) => return Err(HandshakeError::Malformed),
            Ok(None) => {}
        }
        let missing = match buffer.first_chunk::<4>() {
            Some(length) => {
                let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                len.saturating_sub(buffer.len())
            }
            None => HEADER_LEN - buffer.len(),
        };
        // `split` has bounded the length, so at most 4 KiB are missing.
        if (&mut *socket).take(missing as u64).read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

#[cfg(test)]
mod tests;
