//! The part of SPDY/3.1 that port-forward speaks: frames and compressed headers.
//!
//! kube-apiserver turns a user's WebSocket into this protocol before it reaches a node.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The dictionary of SPDY/3's header compression.
const DICTIONARY: &[u8] = include_bytes!("spdy_dictionary.bin");

/// Headers of a stream, names in lower case.
pub type Headers = Vec<(String, String)>;

/// What the other side sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    Open {
        /// Its number.
        stream: u32,
        /// Its headers.
        headers: Headers,
        /// Whether the other side sends nothing on it.
        fin: bool,
    },
    /// Bytes of a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether they are the last ones.
        fin: bool,
    },
    /// A stream is given up.
    Reset {
        /// Its number.
        stream: u32,
    },
    /// A sign of life that wants its echo.
    Ping(u32),
    /// The connection ends.
    GoAway,
    /// Something that port-forward can do without.
    Other,
}

/// A violation of the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The headers' compression is broken.
    #[error("the headers of stream {0} cannot be decompressed")]
    Headers(u32),
    /// A frame is shorter than its kind demands.
    #[error("a frame of type {0} is too short")]
    Short(u16),
    /// A frame is larger than anything port-forward sends.
    #[error("a frame of {0} bytes is too large")]
    Large(usize),
}

/// Largest frame taken in.
const LARGEST: usize = 1 << 20;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// Reads frames; header compression has one state for the whole connection.
#[derive(Debug)]
pub struct Decoder(Decompress);

impl Decoder {
    /// A decoder for a new connection.
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Takes one frame from the buffer; `None` while it is not whole.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if buffer.len() < 8 {
            return Ok(None);
        }
        let length = usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
        if length > LARGEST {
            return Err(Error::Large(length));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        let mut head = buffer.split_to(8).freeze();
        let mut body = buffer.split_to(length).freeze();
        let word = head.get_u32();
        let fin = head.get_u8() & FIN != 0;
        if word >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: word, bytes: body, fin }));
        }
        let kind = (word & 0xffff) as u16;
        let need = match kind {
            SYN_STREAM => 10,
            RST_STREAM | GOAWAY => 8,
            PING => 4,
            _ => 0,
        };
        if body.len() < need {
            return Err(Error::Short(kind));
        }
        Ok(Some(match kind {
            SYN_STREAM => {
                let stream = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::Open { stream, headers: self.headers(&body).ok_or(Error::Headers(stream))?, fin }
            }
            RST_STREAM => Frame::Reset { stream: body.get_u32() & 0x7fff_ffff },
            PING => Frame::Ping(body.get_u32()),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        }))
    }

    fn headers(&mut self, block: &[u8]) -> Option<Headers> {
        let mut plain = Vec::with_capacity(4096);
        let mut rest = block;
        while !rest.is_empty() {
            if plain.len() == plain.capacity() {
                if plain.len() > LARGEST {
                    return None;
                }
                plain.reserve(4096);
            }
            let before = self.0.total_in();
            let result = self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let used = (self.0.total_in() - before) as usize;
            rest = &rest[used..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).ok()?;
                }
                Err(_) => return None,
                // Nothing was taken although there was room: the block is broken.
                Ok(_) if used == 0 && plain.len() < plain.capacity() => return None,
                Ok(_) => {}
            }
        }
        let mut plain = Bytes::from(plain);
        let text = |plain: &mut Bytes| {
            let length = plain.try_get_u32().ok()? as usize;
            (plain.len() >= length).then(|| String::from_utf8_lossy(&plain.split_to(length)).into_owned())
        };
        let count = plain.try_get_u32().ok()?;
        (0..count).map(|_| Some((text(&mut plain)?, text(&mut plain)?))).collect()
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct Encoder(Compress);

impl Encoder {
    /// An encoder for a new connection.
    pub fn new() -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        // Setting a dictionary on a fresh stream cannot fail.
        let _ = compress.set_dictionary(DICTIONARY);
        Self(compress)
    }

    fn control(kind: u16, body: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(8 + body.len());
        frame.put_u32(1 << 31 | 3 << 16 | u32::from(kind));
        frame.put_u32(body.len() as u32);
        frame.put_slice(body);
        frame.freeze()
    }

    /// Accepts a stream, without headers.
    pub fn reply(&mut self, stream: u32) -> Bytes {
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&stream.to_be_bytes());
        let mut block = Vec::with_capacity(64);
        // Four zero bytes: no headers. The output is large enough, so one call suffices.
        let _ = self.0.compress_vec(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync);
        body.extend_from_slice(&block);
        Self::control(SYN_REPLY, &body)
    }

    /// Echoes a ping.
    pub fn ping(id: u32) -> Bytes {
        Self::control(PING, &id.to_be_bytes())
    }

    /// Bytes of a stream.
    pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
        let mut frame = BytesMut::with_capacity(8 + bytes.len());
        frame.put_u32(stream);
        frame.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
        frame.put_slice(bytes);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN_STREAM frame as a client makes it.
    fn open(compress: &mut Compress, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(4096);
        compress.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        let mut body = stream.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(block);
        Encoder::control(SYN_STREAM, &body)
    }

    #[test]
    fn streams_are_opened_over_one_compression_state() {
        let Encoder(mut compress) = Encoder::new();
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        buffer.extend(open(&mut compress, 1, &[("streamtype", "error"), ("port", "80")]));
        buffer.extend(open(&mut compress, 3, &[("streamtype", "data"), ("port", "80")]));
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let headers = vec![("streamtype".to_owned(), kind.to_owned()), ("port".into(), "80".into())];
            assert_eq!(decoder.take(&mut buffer).unwrap(), Some(Frame::Open { stream, headers, fin: false }));
        }
        assert_eq!(decoder.take(&mut buffer).unwrap(), None);
    }

    #[test]
    fn data_and_pings_come_whole_or_not_at_all() {
        let mut decoder = Decoder::new();
        let frame = Encoder::data(5, b"abc", true);
        let mut buffer = BytesMut::from(&frame[..9]);
        assert_eq!(decoder.take(&mut buffer).unwrap(), None);
        buffer.extend(&frame[9..]);
        assert_eq!(decoder.take(&mut buffer).unwrap(), Some(Frame::Data { stream: 5, bytes: "abc".into(), fin: true }));
        buffer.extend(Encoder::ping(7));
        assert_eq!(decoder.take(&mut buffer).unwrap(), Some(Frame::Ping(7)));
    }

    #[test]
    fn replies_can_be_read_by_the_other_side() {
        let mut encoder = Encoder::new();
        let mut inflate = Decoder::new();
        for stream in [1, 3, 5] {
            let frame = encoder.reply(stream);
            assert_eq!(inflate.headers(&frame[12..]), Some(Vec::new()));
        }
    }

    #[test]
    fn broken_headers_are_refused() {
        let mut body = 9_u32.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(b"not zlib");
        let mut buffer = BytesMut::from(&Encoder::control(SYN_STREAM, &body)[..]);
        assert_eq!(Decoder::new().take(&mut buffer), Err(Error::Headers(9)));
    }
}
