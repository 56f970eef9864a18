//! The text of a message, as the clients encrypt it.
//!
//! Every client has a key built in, so this hides nothing. It is spoken because the clients cannot read
//! anything else: iOS crashes on text that does not decrypt. A server needs it for text that it makes or
//! shows itself (push messages, placeholders); bodies pass through as they are. A site whose clients have
//! another key than the original ones names it in its settings.
//!
//! The text is padded with zeros so that its length, four bytes big-endian, is the end of the last
//! block of 16; each block is encrypted on its own (AES-256, ECB); the result is Base64.

use std::fmt;
use std::sync::{Arc, LazyLock};

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

/// The key that the original clients have.
const KEY: &[u8; KEY_LEN] = b"12345678901234567890123456789012";

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

const BLOCK_LEN: usize = 16;
/// Bytes at the end of the last block that hold the length.
const LENGTH_LEN: usize = 4;

static OF_ORIGINAL_CLIENTS: LazyLock<TextCipher> = LazyLock::new(|| TextCipher::new(KEY));

/// Writes `=`; reads with it, without it, and with stray bits in the last digit.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why bytes are not an encrypted text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// They are not Base64.
    #[error("the text is not base64")]
    Base64,
    /// They are not one or more whole blocks.
    #[error("the text has {0} bytes, which is no number of blocks")]
    Blocks(usize),
    /// What was encrypted is not UTF-8.
    #[error("the decrypted text is not UTF-8")]
    Utf8,
}

/// Encrypts and decrypts with one key. Clones share it. The default is the key of the original clients.
#[derive(Clone)]
pub struct TextCipher(Arc<Aes256>);

impl TextCipher {
    /// With this key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Arc::new(Aes256::new(key.into())))
    }

    /// With the key of a site; `None`: that of the original clients.
    pub fn of_site(key: Option<[u8; KEY_LEN]>) -> Self {
        key.map_or_else(Self::default, |key| Self::new(&key))
    }

    /// Returns `text` in the form that clients read as `msg_data`.
    pub fn encrypt(&self, text: &str) -> Bytes {
        let len =
            u32::try_from(text.len()).expect("no text comes near 4 GiB: frames are far smaller");
        let padded = text.len().saturating_add(LENGTH_LEN).next_multiple_of(BLOCK_LEN);

        let mut bytes = Vec::with_capacity(padded);
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(padded.saturating_sub(LENGTH_LEN), 0);
        bytes.extend_from_slice(&len.to_be_bytes());
        for block in bytes.as_chunks_mut::<BLOCK_LEN>().0 {
            let block: &mut Block = block.into();
            self.0.encrypt_block(block);
        }
        BASE64.encode(bytes).into()
    }

    /// Returns the text in `data`, which a client made by encrypting it.
    ///
    /// Takes looser forms than [`Self::encrypt`] writes: white space, missing `=`, and where the end does
    /// not hold a length, as some clients write it, everything up to the zeros at the end.
    pub fn decrypt(&self, data: &[u8]) -> Result<String, TextError> {
        let digits: Vec<u8> =
            data.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let mut bytes = BASE64.decode(digits).map_err(|_| TextError::Base64)?;

        let len = bytes.len();
        let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_LEN>();
        if blocks.is_empty() || !rest.is_empty() {
            return Err(TextError::Blocks(len));
        }
        for block in blocks {
            let block: &mut Block = block.into();
            self.0.decrypt_block(block);
        }

        bytes.truncate(text_len(&bytes));
        String::from_utf8(bytes).map_err(|_| TextError::Utf8)
    }
}

impl Default for TextCipher {
    fn default() -> Self {
        OF_ORIGINAL_CLIENTS.clone()
    }
}

impl fmt::Debug for TextCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextCipher")
    }
}

/// [`TextCipher::encrypt`] with the key of the original clients.
pub fn encrypt(text: &str) -> Bytes {
    OF_ORIGINAL_CLIENTS.encrypt(text)
}

/// [`TextCipher::decrypt`] with the key of the original clients.
pub fn decrypt(data: &[u8]) -> Result<String, TextError> {
    OF_ORIGINAL_CLIENTS.decrypt(data)
}

/// Returns how many of the decrypted `bytes` are text.
fn text_len(bytes: &[u8]) -> usize {
    let up_to_zeros = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let Some((front, length)) = bytes.split_last_chunk::<LENGTH_LEN>() else {
        return up_to_zeros;
    };
    match usize::try_from(u32::from_be_bytes(*length)) {
        // Zeros at the end say "no text" only if there is none.
        Ok(0) => up_to_zeros,
        Ok(len) if len <= front.len() => len,
        _ => up_to_zeros,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_what_it_has_written_and_no_other_key_does() {
        assert_eq!(TextCipher::of_site(None).encrypt("a"), encrypt("a"));
        let other = TextCipher::of_site(Some(*b"the clients of this site have it"));
        let data = other.encrypt("hello 你好");
        assert_eq!(other.decrypt(&data).as_deref(), Ok("hello 你好"));
        assert_ne!(decrypt(&data).as_deref(), Ok("hello 你好"));
    }

    /// What clients make of these texts.
    const VECTORS: [(&str, &str); 9] = [
        ("", "e5RnnlJkv4QGnGhkMwfvgA=="),
        ("a", "8+lyaGSNdKxdsEEADyYxvw=="),
        ("hello", "nnZSBwfPCz60q69ddmfIJA=="),
        ("[语音]", "QhGXlpFjvMFUNrtl1aaPzA=="),
        ("hello 你好", "t5ify+ybA+7JaN5pD298Jg=="),
        ("123456789012", "qRbX2o2N6/0vxpOpQhCOOg=="),
        ("1234567890123", "ovYKzOY+0lEFsnZlqUWIQAr+GZ43+2mMfQMFqTsGBjY="),
        ("1234567890123456", "zyFIAqnq8fihaJFqgH9gVAfU6OB7fpsvZh6GP3dYB9g="),
        (
            "&$#@~^@[{:http://h/g0/000/000/1.png:}]&$~@#@",
            "dgjzZcuwYVvgiMtBlzoa8T7aZvsntK2vm/geRk3C/iTL1S0of8yMSlRr/Hd+Xac3",
        ),
    ];

    #[test]
    fn texts_are_encrypted_as_clients_do_it() {
        for (text, encrypted) in VECTORS {
            assert_eq!(encrypt(text), encrypted, "{text}");
            assert_eq!(decrypt(encrypted.as_bytes()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_voice_message_is_shown_as_the_word_voice() {}

    #[test]
    fn white_space_and_missing_padding_do_not_matter() {
        assert_eq!(decrypt(b" nnZSBwfPCz60\r\nq69ddmfIJA\n").as_deref(), Ok("hello"));
    }

    #[test]
    fn a_text_without_a_length_ends_at_the_zeros() {
        assert_eq!(decrypt(&encrypted(b"padded with 0s!\0")).as_deref(), Ok("padded with 0s!"));
        assert_eq!(decrypt(&encrypted(b"hello\0\0\0\0\0\0\0\0\0\0\0")).as_deref(), Ok("hello"));
        assert_eq!(decrypt(&encrypted(b"exactly one block")).as_deref(), Ok("exactly one block"));
    }

    #[test]
    fn a_length_in_the_last_byte_alone_is_a_length() {
        assert_eq!(decrypt(&encrypted(b"hello\0\0\0\0\0\0\0\0\0\0\x05")).as_deref(), Ok("hello"));
    }

    #[test]
    fn a_length_above_the_text_is_not_believed() {
        assert_eq!(decrypt(&encrypted(b"hello\0\0\0\0\0\0\0\xff\xff\0\0")), Err(TextError::Utf8));
        assert_eq!(
            decrypt(&encrypted(b"hello1234567\0\0\0\x0d")),
            Ok("hello1234567\0\0\0\r".into())
        );
    }

    #[test]
    fn what_is_no_encrypted_text_is_refused() {
        assert_eq!(decrypt(b""), Err(TextError::Blocks(0)));
        assert_eq!(decrypt(b"aGVsbG8="), Err(TextError::Blocks(5)));
        assert_eq!(decrypt(b"plain text!"), Err(TextError::Base64));
        assert_eq!(decrypt(&[0xff; 24]), Err(TextError::Base64));
        assert_eq!(
            decrypt(&encrypted(b"\xff\xfe\0\0\0\0\0\0\0\0\0\0\0\0\0\x02")),
            Err(TextError::Utf8)
        );
    }

    #[test]
    fn texts_of_every_length_come_back() {
        for len in 0..200 {
            let text = "x".repeat(len);
            let encrypted = encrypt(&text);
            assert_eq!(decrypt(&encrypted), Ok(text), "{len}");
        }
    }

    /// Encrypts whole blocks as they are, filled up with zeros.
    fn encrypted(plain: &[u8]) -> Vec<u8> {
        let mut bytes = plain.to_vec();
        bytes.resize(plain.len().next_multiple_of(BLOCK_LEN), 0);
        for block in bytes.as_chunks_mut::<BLOCK_LEN>().0 {
            OF_ORIGINAL_CLIENTS.0.encrypt_block(block.into());
        }
        BASE64.encode(bytes).into_bytes()
    }
}
