//! An encrypted connection between two nodes on which both have proved their Ethereum keys.
//!
//! ```text
//!   dialing node                              accepting node
//!      │ ── Noise: e ───────────────────────────▶ │   keys of this connection only
//!      │ ◀─ Noise: e, ee ──────────────────────── │
//!      │ ── Hello {node, signature} ────────────▶ │   encrypted from here on
//!      │ ◀─ Hello {node, signature} ───────────── │
//!      │ ◀═ frames ═════════════════════════════▶ │
//! ```
//!
//! A signature is over a text that holds the hash of the Noise handshake, both nodes and which of them dialed. So it is
//! of no use on another connection, to another node or in the other direction: who sits in between makes two handshakes
//! with two hashes. Noise counts the messages, so none can be left out, repeated or moved; that a connection ends means
//! nothing, as anybody can end it.

use std::io;
use std::sync::Arc;

use protocol::account::{self, Account, SignatureError};
use protocol::{Address, NodeId};
use serde::{Deserialize, Serialize};
use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// The name and version of the protocol; nodes of another one do not understand each other's handshake.
pub const PROTOCOL: &str = "aleph-replication/1";

/// The longest frame, in bytes: a list of the most volumes that a program may have, with the longest names.
pub const MAX_FRAME: usize = 2 << 20;

const NOISE: &str = "Noise_NN_25519_ChaChaPoly_BLAKE2s";

/// The longest message of Noise, in bytes, and what encryption adds to it.
const MAX_MESSAGE: usize = 65535;
const TAG: usize = 16;

/// The longest Hello, in bytes.
const MAX_HELLO: usize = 4096;

/// What begins a message.
const LAST: u8 = 0;
const MORE: u8 = 1;

/// Why a connection is not secure, or over.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// The connection ended or broke.
    #[error("the connection broke: {0}; dial again")]
    Broken(#[from] io::Error),
    /// What came was not made by the other side of this connection, or not in this order.
    #[error(
        "what came is not from the other node, or was changed on the way ({0}); dial again, and look at what lies in between"
    )]
    Forged(snow::Error),
    /// The other side does not keep to the protocol.
    #[error("the other node does not speak {PROTOCOL}: {0}; both need the same version of aleph-node")]
    Protocol(&'static str),
    /// The other side is not the node that was dialed, or believes to speak with another.
    #[error("the other side is {actual}, expected {expected}; the address that was dialed belongs to another node")]
    WrongNode {
        /// Who it says it is.
        actual: NodeId,
        /// Who it should be.
        expected: NodeId,
    },
    /// The node reached itself.
    #[error("this node ({0}) reached itself; each node needs an id and an address of its own")]
    Itself(NodeId),
    /// The other side has not proved the key.
    #[error("the other node did not prove its key: {0}")]
    Unproven(#[from] SignatureError),
    /// More than a frame may have.
    #[error("a frame of more than {MAX_FRAME} bytes is not sent or taken")]
    TooLong,
}

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Dialing,
    Accepting,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Dialing => "dialing",
            Self::Accepting => "accepting",
        }
    }
}

/// What each side says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    node: NodeId,
    signature: String,
}

/// The text that a node signs.
fn text(side: Side, from: NodeId, to: NodeId, hash: &[u8]) -> String {
    format!("{PROTOCOL}\n{} node {from}\nto node {to}\nhandshake {}", side.name(), hex::encode(hash))
}

/// Who is on the other side, proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The node that it says it is. Whether the account may speak for it is for the caller to know.
    pub node: NodeId,
    /// The account whose key it has proved.
    pub account: Address,
}

/// Reads frames.
#[derive(Debug)]
pub struct SecureReader<S> {
    stream: ReadHalf<S>,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    /// What has come of the next message, its length included.
    raw: Vec<u8>,
    /// What has come of the next frame.
    frame: Vec<u8>,
}

/// Writes frames.
#[derive(Debug)]
pub struct SecureWriter<S> {
    stream: WriteHalf<S>,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
}

/// Dials: proves that this is `node` to the node `to`, and makes sure that the other side has the key of `expected`.
///
/// # Errors
/// When the other side is another node, has another key, or the connection breaks. There is no time limit: the caller
/// has one.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    account: &Account,
    node: NodeId,
    to: NodeId,
    expected: &Address,
) -> Result<(SecureReader<S>, SecureWriter<S>), SecureError> {
    let mut noise = builder().build_initiator().map_err(SecureError::Forged)?;
    send_handshake(&mut stream, &mut noise).await?;
    receive_handshake(&mut stream, &mut noise).await?;
    let (mut reader, mut writer, hash) = transport(stream, noise)?;
    if node == to {
        return Err(SecureError::Itself(node));
    }
    writer.hello(node, account.sign(text(Side::Dialing, node, to, &hash).as_bytes())).await?;
    let hello = reader.hello().await?;
    if hello.node != to {
        return Err(SecureError::WrongNode { actual: hello.node, expected: to });
    }
    account::verify(text(Side::Accepting, to, node, &hash).as_bytes(), &hello.signature, expected)?;
    Ok((reader, writer))
}

/// Accepts: proves that this is `node`, and tells who dialed. Whether that account may send anything is for the caller
/// to decide, by [`Proven`]; a signature of a text that names another node or connection gives some other account.
///
/// # Errors
/// When the other side keeps to no protocol, or the connection breaks. There is no time limit: the caller has one.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    account: &Account,
    node: NodeId,
) -> Result<(SecureReader<S>, SecureWriter<S>, Proven), SecureError> {
    let mut noise = builder().build_responder().map_err(SecureError::Forged)?;
    receive_handshake(&mut stream, &mut noise).await?;
    send_handshake(&mut stream, &mut noise).await?;
    let (mut reader, mut writer, hash) = transport(stream, noise)?;
    let hello = reader.hello().await?;
    if hello.node == node {
        return Err(SecureError::Itself(node));
    }
    let signed = text(Side::Dialing, hello.node, node, &hash);
    let proven = Proven { node: hello.node, account: account::recover(signed.as_bytes(), &hello.signature)? };
    writer.hello(node, account.sign(text(Side::Accepting, node, proven.node, &hash).as_bytes())).await?;
    Ok((reader, writer, proven))
}

fn builder() -> Builder<'static> {
    let parameters = NOISE.parse().expect("it is a name of Noise");
    Builder::new(parameters).prologue(PROTOCOL.as_bytes()).expect("it is set once")
}

async fn send_handshake<S: AsyncWrite + Unpin>(stream: &mut S, noise: &mut HandshakeState) -> Result<(), SecureError> {
    let mut message = vec![0; 256];
    let length = noise.write_message(&[], &mut message).map_err(SecureError::Forged)?;
    stream.write_all(&framed(&message[..length])).await?;
    Ok(stream.flush().await?)
}

async fn receive_handshake<S: AsyncRead + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
) -> Result<(), SecureError> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    if message.len() > 256 {
        return Err(SecureError::Protocol("its handshake is too long"));
    }
    stream.read_exact(&mut message).await?;
    let mut payload = [0; 256];
    noise.read_message(&message, &mut payload).map_err(SecureError::Forged)?;
    Ok(())
}

type Halves<S> = (SecureReader<S>, SecureWriter<S>, Vec<u8>);

/// The connection after the handshake, with the handshake's hash.
fn transport<S: AsyncRead + AsyncWrite + Unpin>(stream: S, noise: HandshakeState) -> Result<Halves<S>, SecureError> {
    let hash = noise.get_handshake_hash().to_vec();
    let noise = Arc::new(noise.into_stateless_transport_mode().map_err(SecureError::Forged)?);
    let (read, write) = tokio::io::split(stream);
    let reader = SecureReader {
        stream: read,
        noise: noise.clone(),
        nonce: 0,
        raw: Vec::with_capacity(MAX_MESSAGE + 2),
        frame: Vec::new(),
    };
    Ok((reader, SecureWriter { stream: write, noise, nonce: 0 }, hash))
}

/// A message with its length in front.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message of Noise is not longer");
    [&length.to_be_bytes(), message].concat()
}

impl<S: AsyncRead> SecureReader<S> {
    /// The next frame. Nothing is lost when this is dropped before it has ended.
    ///
    /// # Errors
    /// When the connection ends or breaks, also between two frames, or what came is not what was sent.
    pub async fn receive(&mut self) -> Result<Vec<u8>, SecureError> {
        loop {
            let Some(length) = self.message_length() else {
                self.fill().await?;
                continue;
            };
            let mut plain = vec![0; length];
            let read = self.noise.read_message(self.nonce, &self.raw[2..2 + length], &mut plain);
            let read = read.map_err(SecureError::Forged)?;
            self.raw.drain(..2 + length);
            self.nonce += 1;
            let Some((kind, part)) = plain[..read].split_first() else {
                return Err(SecureError::Protocol("it sent an empty message"));
            };
            if self.frame.len() + part.len() > MAX_FRAME {
                return Err(SecureError::TooLong);
            }
            self.frame.extend_from_slice(part);
            match *kind {
                LAST => return Ok(std::mem::take(&mut self.frame)),
                MORE if !part.is_empty() => {}
                _ => return Err(SecureError::Protocol("it sent an unknown message")),
            }
        }
    }

    /// The length of the next message, once all of it has come.
    fn message_length(&self) -> Option<usize> {
        let (length, rest) = self.raw.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        (rest.len() >= length).then_some(length)
    }

    async fn fill(&mut self) -> Result<(), SecureError> {
        // Dropping it loses no bytes: they are read into the buffer or not at all.
        if self.stream.read_buf(&mut self.raw).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    async fn hello(&mut self) -> Result<Hello, SecureError> {
        let frame = self.receive().await?;
        if frame.len() > MAX_HELLO {
            return Err(SecureError::Protocol("its Hello is too long"));
        }
        serde_json::from_slice(&frame).map_err(|_| SecureError::Protocol("its Hello cannot be read"))
    }
}

impl<S: AsyncWrite> SecureWriter<S> {
    /// Sends a frame, and returns how many bytes went over the wire. After one that was dropped before it ended, the
    /// connection is of no use.
    ///
    /// # Errors
    /// When the frame is too long, or the connection broke.
    pub async fn send(&mut self, frame: &[u8]) -> Result<u64, SecureError> {
        if frame.len() > MAX_FRAME {
            return Err(SecureError::TooLong);
        }
        let parts: Vec<_> = frame.chunks(MAX_MESSAGE - TAG - 1).collect();
        let parts = if parts.is_empty() { vec![&[][..]] } else { parts };
        let mut sent = 0;
        for (index, part) in parts.iter().enumerate() {
            let kind = if index + 1 == parts.len() { LAST } else { MORE };
            let mut message = vec![0; part.len() + 1 + TAG];
            let plain = [&[kind], *part].concat();
            let length = self.noise.write_message(self.nonce, &plain, &mut message).map_err(SecureError::Forged)?;
            self.nonce += 1;
            self.stream.write_all(&framed(&message[..length])).await?;
            sent += length as u64 + 2;
        }
        self.stream.flush().await?;
        Ok(sent)
    }

    async fn hello(&mut self, node: NodeId, signature: String) -> Result<(), SecureError> {
        let hello = serde_json::to_vec(&Hello { node, signature }).expect("it is JSON");
        self.send(&hello).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests;
