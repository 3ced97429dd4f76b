//! How sets are encrypted where they are stored.
//!
//! Each program has a random data key, which the message node's master key wraps. A stream becomes
//! `prefix ‖ chunk ‖ chunk ‖ … ‖ last chunk`: 64 KiB of it at a time with XChaCha20-Poly1305, the nonce being the random
//! prefix of the object, a counter and a flag for the last one (the STREAM construction), so that no chunk can be changed, cut
//! off, repeated or moved. What is authenticated with each chunk names program, set and volume, so that no object can
//! stand for another one. Manifests are readable and have an authentication tag.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::stream::{DecryptorBE32, EncryptorBE32};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use protocol::data::SnapshotId;
use protocol::{FileHash, ProgramId};
use rand_core::{OsRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Bytes of a stream that are encrypted together.
const CHUNK: usize = 64 * 1024;
/// What encryption adds to each chunk.
const TAG: usize = 16;
/// The random part of the nonces of one object.
const PREFIX: usize = 19;

/// What is stored is not what was written, or not under this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not what was written")]
pub(crate) struct Damaged;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.fill_bytes(&mut bytes);
    bytes
}

/// The key of the message node that wraps the keys of programs.
pub(crate) struct MasterKey {
    key: Zeroizing<[u8; 32]>,
    id: String,
}

impl MasterKey {
    fn new(key: Zeroizing<[u8; 32]>) -> Self {
        // A digest of the key says nothing about it.
        let id =
            FileHash::of(&[b"aleph archive master key".as_slice(), &key[..]].concat()).to_string()[..16].to_owned();
        Self { key, id }
    }

    /// Reads the key file; `None` when there is none.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let key: [u8; 32] = bytes[..].try_into().map_err(|_| {
            let message = format!("it has {} bytes, and a key has 32; restore it from a backup", bytes.len());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        Ok(Some(Self::new(Zeroizing::new(key))))
    }

    /// Makes a key and its file, which only its owner can read. It is durable when this returns.
    pub(crate) fn generate(path: &Path) -> io::Result<Self> {
        let key = Zeroizing::new(random());
        let new = path.with_extension("key.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&key[..])?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self::new(key))
    }

    /// What names the key in manifests.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn wrap(&self, program: &ProgramId, key: &DataKey) -> WrappedKey {
        let nonce: [u8; 24] = random();
        let payload = Payload { msg: &key.0[..], aad: &wrap_context(program) };
        let wrapped = self.cipher().encrypt(&XNonce::from(nonce), payload).expect("32 bytes can be encrypted");
        WrappedKey { master: self.id.clone(), nonce: hex::encode(nonce), key: hex::encode(wrapped) }
    }

    /// The data key of a program, if this master key wrapped it.
    pub(crate) fn unwrap(&self, program: &ProgramId, wrapped: &WrappedKey) -> Result<DataKey, Damaged> {
        let (nonce, key) = (hex::decode(&wrapped.nonce), hex::decode(&wrapped.key));
        let (Ok(nonce), Ok(key)) = (nonce, key) else { return Err(Damaged) };
        let nonce: [u8; 24] = nonce.try_into().map_err(|_| Damaged)?;
        let payload = Payload { msg: &key, aad: &wrap_context(program) };
        let key = self.cipher().decrypt(&XNonce::from(nonce), payload).map_err(|_| Damaged)?;
        let key = Zeroizing::new(key);
        Ok(DataKey(Zeroizing::new(key[..].try_into().map_err(|_| Damaged)?)))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.key))
    }
}

fn wrap_context(program: &ProgramId) -> Vec<u8> {
    [b"aleph archive key 1".as_slice(), program.as_bytes()].concat()
}

/// The data key of a program as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WrappedKey {
    /// Which master key wrapped it.
    pub master: String,
    nonce: String,
    key: String,
}

/// The key of a program's archive.
pub(crate) struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    pub(crate) fn generate() -> Self {
        Self(Zeroizing::new(random()))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.0))
    }

    /// A tag that says that this node wrote a manifest: nonce and tag.
    pub(crate) fn sign_manifest(&self, text: &[u8]) -> (String, String) {
        let nonce: [u8; 24] = random();
        let aad = manifest_context(text);
        let tag = self.cipher().encrypt(&XNonce::from(nonce), Payload { msg: b"", aad: &aad });
        (hex::encode(nonce), hex::encode(tag.expect("nothing can be encrypted")))
    }

    pub(crate) fn check_manifest(&self, text: &[u8], nonce: &str, tag: &str) -> Result<(), Damaged> {
        let nonce: [u8; 24] = hex::decode(nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(Damaged)?;
        let tag = hex::decode(tag).map_err(|_| Damaged)?;
        let payload = Payload { msg: &tag, aad: &manifest_context(text) };
        self.cipher().decrypt(&XNonce::from(nonce), payload).map_err(|_| Damaged).map(drop)
    }
}

fn manifest_context(text: &[u8]) -> Vec<u8> {
    [b"aleph archive manifest 1".as_slice(), text].concat()
}

/// What a stream is the stream of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamName {
    /// The program.
    pub program: ProgramId,
    /// The set.
    pub set: SnapshotId,
    /// What stands for the volume.
    pub volume: String,
}

impl StreamName {
    fn context(&self) -> Vec<u8> {
        let text = format!("aleph archive stream 1 {} {} {}", self.program, self.set, self.volume);
        text.into_bytes()
    }
}

/// Encrypts a stream.
pub(crate) struct Sealer {
    cipher: EncryptorBE32<XChaCha20Poly1305>,
    context: Vec<u8>,
    buffer: BytesMut,
}

impl Sealer {
    /// A sealer, and what its object begins with.
    pub(crate) fn new(key: &DataKey, name: &StreamName) -> (Self, Bytes) {
        let prefix: [u8; PREFIX] = random();
        let cipher = EncryptorBE32::from_aead(key.cipher(), prefix.as_slice().into());
        (Self { cipher, context: name.context(), buffer: BytesMut::new() }, Bytes::copy_from_slice(&prefix))
    }

    /// Takes in bytes; gives what there is to store of them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.buffer.extend_from_slice(bytes);
        let mut sealed = BytesMut::new();
        // The last chunk is told by its nonce, so one is held back until it is known whether more comes.
        while self.buffer.len() > CHUNK {
            let chunk = self.buffer.split_to(CHUNK);
            let payload = Payload { msg: &chunk, aad: &self.context };
            let chunk = self.cipher.encrypt_next(payload).expect("streams are shorter than 2^32 chunks");
            sealed.extend_from_slice(&chunk);
        }
        sealed.freeze()
    }

    /// The end.
    pub(crate) fn finish(self) -> Bytes {
        let payload = Payload { msg: &self.buffer, aad: &self.context };
        self.cipher.encrypt_last(payload).expect("streams are shorter than 2^32 chunks").into()
    }
}

/// Decrypts a stream. What it gives is what was written, from the beginning on; [`Opener::finish`] says that it is all.
pub(crate) struct Opener {
    cipher: Option<DecryptorBE32<XChaCha20Poly1305>>,
    key: DataKey,
    context: Vec<u8>,
    buffer: BytesMut,
}

impl Opener {
    pub(crate) fn new(key: DataKey, name: &StreamName) -> Self {
        Self { cipher: None, key, context: name.context(), buffer: BytesMut::new() }
    }

    /// Takes in bytes of an object; gives what there is of the stream.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Damaged> {
        self.buffer.extend_from_slice(bytes);
        if self.cipher.is_none() && self.buffer.len() >= PREFIX {
            let prefix = self.buffer.split_to(PREFIX);
            self.cipher = Some(DecryptorBE32::from_aead(self.key.cipher(), prefix[..].into()));
        }
        let mut opened = BytesMut::new();
        if let Some(cipher) = &mut self.cipher {
            while self.buffer.len() > CHUNK + TAG {
                let chunk = self.buffer.split_to(CHUNK + TAG);
                let payload = Payload { msg: &chunk, aad: &self.context };
                opened.extend_from_slice(&cipher.decrypt_next(payload).map_err(|_| Damaged)?);
            }
        }
        Ok(opened.freeze())
    }

    /// The rest of the stream, after all of the object was taken in.
    ///
    /// # Errors
    /// [`Damaged`], also when something is missing at the end.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Damaged> {
        let payload = Payload { msg: &self.buffer, aad: &self.context };
        let rest = self.cipher.take().ok_or(Damaged)?.decrypt_last(payload).map_err(|_| Damaged)?;
        Ok(rest.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> StreamName {
        StreamName { program: ProgramId::from_bytes([1; 32]), set: "3-17".parse().unwrap(), volume: "v".repeat(32) }
    }

    fn seal(key: &DataKey, name: &StreamName, plain: &[u8], piece: usize) -> Vec<u8> {
        let (mut sealer, head) = Sealer::new(key, name);
        let mut sealed = head.to_vec();
        plain.chunks(piece.max(1)).for_each(|part| sealed.extend_from_slice(&sealer.push(part)));
        sealed.extend_from_slice(&sealer.finish());
        sealed
    }

    fn open(key: &DataKey, name: &StreamName, sealed: &[u8], piece: usize) -> Result<Vec<u8>, Damaged> {
        let mut opener = Opener::new(DataKey(key.0.clone()), name);
        let mut plain = Vec::new();
        for part in sealed.chunks(piece.max(1)) {
            plain.extend_from_slice(&opener.push(part)?);
        }
        plain.extend_from_slice(&opener.finish()?);
        Ok(plain)
    }

    #[test]
    fn streams_of_every_length_return() {
        let key = DataKey::generate();
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5] {
            let plain: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let sealed = seal(&key, &name(), &plain, 10_000);
            assert_eq!(open(&key, &name(), &sealed, 7777).unwrap(), plain, "{length}");
            let other = seal(&key, &name(), &plain, 10_000);
            assert_ne!(sealed, other, "nonces are never used twice");
        }
    }

    #[test]
    fn chunks_cannot_be_cut_repeated_or_moved() {
        let key = DataKey::generate();
        let sealed = seal(&key, &name(), &vec![7; 3 * CHUNK], 1 << 20);
        let bounds = [PREFIX, PREFIX + CHUNK + TAG, PREFIX + 2 * (CHUNK + TAG), sealed.len()];
        let part = |n: usize| sealed[bounds[n]..bounds[n + 1]].to_vec();
        let put = |parts: &[Vec<u8>]| [sealed[..PREFIX].to_vec(), parts.concat()].concat();
        assert!(open(&key, &name(), &put(&[part(0), part(1), part(2)]), 1000).is_ok());
        for wrong in [
            put(&[part(0), part(1)]),
            put(&[part(0)]),
            put(&[]),
            put(&[part(1), part(0), part(2)]),
            put(&[part(0), part(0), part(1), part(2)]),
            put(&[part(0), part(1), part(2), part(2)]),
            put(&[part(0), part(2)]),
            sealed[..sealed.len() - 1].to_vec(),
            sealed[..PREFIX - 1].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(open(&key, &name(), &wrong, 1000), Err(Damaged));
        }
    }

    #[test]
    fn a_stream_stands_for_no_other() {
        let key = DataKey::generate();
        let sealed = seal(&key, &name(), b"data", 10);
        let others = [
            StreamName { program: ProgramId::from_bytes([2; 32]), ..name() },
            StreamName { set: "3-18".parse().unwrap(), ..name() },
            StreamName { volume: "w".repeat(32), ..name() },
        ];
        for other in others {
            assert_eq!(open(&key, &other, &sealed, 10), Err(Damaged), "{other:?}");
        }
        assert_eq!(open(&DataKey::generate(), &name(), &sealed, 10), Err(Damaged));
    }

    #[test]
    fn keys_are_wrapped_for_one_program_by_one_master_key() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshots.key");
        assert!(MasterKey::read(&path).unwrap().is_none());
        let master = MasterKey::generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = MasterKey::read(&path).unwrap().unwrap();
        assert_eq!(again.id(), master.id());

        let (program, key) = (ProgramId::from_bytes([1; 32]), DataKey::generate());
        let wrapped = master.wrap(&program, &key);
        assert_eq!(again.unwrap(&program, &wrapped).unwrap().0, key.0);
        assert!(again.unwrap(&ProgramId::from_bytes([2; 32]), &wrapped).is_err());
        let other = MasterKey::generate(&folder.path().join("other.key")).unwrap();
        assert!(other.unwrap(&program, &wrapped).is_err());
        assert!(master.unwrap(&program, &WrappedKey { nonce: "00".into(), ..wrapped }).is_err());

        fs::write(&path, b"short").unwrap();
        assert!(MasterKey::read(&path).err().unwrap().to_string().contains("5 bytes"));
    }

    #[test]
    fn manifests_cannot_be_changed() {
        let key = DataKey::generate();
        let (nonce, tag) = key.sign_manifest(b"{}");
        assert_eq!(key.check_manifest(b"{}", &nonce, &tag), Ok(()));
        assert_eq!(key.check_manifest(b"{ }", &nonce, &tag), Err(Damaged));
        assert_eq!(key.check_manifest(b"{}", &nonce, "zz"), Err(Damaged));
        assert_eq!(key.check_manifest(b"{}", "00", &tag), Err(Damaged));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_flipped_bit_is_noticed(length in 0usize..200_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = DataKey::generate();
            let mut sealed = seal(&key, &name(), &vec![1; length], 50_000);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(open(&key, &name(), &sealed, 10_000), Err(Damaged));
        }
    }
}
