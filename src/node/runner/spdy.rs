//! The part of SPDY/3.1 that `kubectl port-forward` speaks: frames, and headers compressed with the protocol's dictionary.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Words of the dictionary, each preceded by its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// The dictionary's end, without lengths.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

const VERSION: u16 = 3;
const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
/// A header block that unpacks to more is no port-forward's.
const MOST_HEADERS: usize = 64 << 10;

/// Names and values of headers, names in lower case.
pub type Headers = BTreeMap<String, String>;

/// A frame, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// Its id.
        id: u32,
        /// Its headers.
        headers: Headers,
        /// Whether the sender sends nothing on it.
        fin: bool,
    },
    /// A stream is accepted.
    SynReply {
        /// Its id.
        id: u32,
    },
    /// Bytes of a stream.
    Data {
        /// Its id.
        id: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether they are the last ones.
        fin: bool,
    },
    /// A stream is broken off.
    Reset {
        /// Its id.
        id: u32,
    },
    /// Asks for the same frame back.
    Ping(u32),
    /// The connection ends.
    GoAway,
    /// Settings, window updates: nothing to do.
    Other,
}

/// What cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another version of the protocol.
    #[error("frame of SPDY version {0}, not 3")]
    Version(u16),
    /// A frame that is shorter than it must be.
    #[error("frame of type {0} is too short")]
    Short(u16),
    /// Headers that cannot be unpacked.
    #[error("headers cannot be unpacked: {0}")]
    Headers(String),
}

fn dictionary() -> Vec<u8> {
    let mut all = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        all.put_u32(word.len() as u32);
        all.extend_from_slice(word.as_bytes());
    }
    all.extend_from_slice(TAIL.as_bytes());
    all
}

/// Understands what the other side sends.
pub struct Decoder {
    headers: Decompress,
    dictionary: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { headers: Decompress::new(true), dictionary: dictionary() }
    }
}

impl Decoder {
    /// Takes one frame off `buffer`; `None` while it is not complete.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let Some(head) = buffer.get(..8) else { return Ok(None) };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        buffer.advance(8);
        let body = buffer.split_to(length).freeze();
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { id: first, bytes: body, fin: flags & FIN != 0 }));
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        self.control(first as u16, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, Error> {
        let needed = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | PING | HEADERS => 4,
            RST_STREAM => 8,
            _ => 0,
        };
        if body.len() < needed {
            return Err(Error::Short(kind));
        }
        Ok(match kind {
            SYN_STREAM => {
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream { id, headers: self.unpack(&body)?, fin: flags & FIN != 0 }
            }
            SYN_REPLY | HEADERS => {
                let id = body.get_u32() & 0x7fff_ffff;
                // Read for the compression's sake, which spans all headers of the connection.
                self.unpack(&body)?;
                if kind == SYN_REPLY { Frame::SynReply { id } } else { Frame::Other }
            }
            RST_STREAM => Frame::Reset { id: body.get_u32() & 0x7fff_ffff },
            PING => Frame::Ping(body.get_u32()),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Headers, Error> {
        let wrong = |reason: &dyn std::fmt::Display| Error::Headers(reason.to_string());
        let mut plain = Vec::with_capacity(1 << 10);
        let start = self.headers.total_in();
        loop {
            let taken = (self.headers.total_in() - start) as usize;
            if plain.len() == plain.capacity() {
                if plain.len() >= MOST_HEADERS {
                    return Err(wrong(&"they are too long"));
                }
                plain.reserve(plain.len());
            }
            match self.headers.decompress_vec(&packed[taken..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {
                    let all_in = (self.headers.total_in() - start) as usize == packed.len();
                    if all_in && plain.len() < plain.capacity() {
                        break;
                    }
                    if !all_in && taken == (self.headers.total_in() - start) as usize && plain.len() < plain.capacity()
                    {
                        return Err(wrong(&"they stop in the middle"));
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.headers.set_dictionary(&self.dictionary).map_err(|e| wrong(&e))?;
                }
                Err(error) => return Err(wrong(&error)),
            }
        }
        parse_headers(&plain).ok_or_else(|| wrong(&"their lengths are wrong"))
    }
}

fn parse_headers(mut plain: &[u8]) -> Option<Headers> {
    let mut word = || -> Option<u32> {
        let (head, tail) = plain.split_first_chunk::<4>()?;
        plain = tail;
        Some(u32::from_be_bytes(*head))
    };
    let count = word()?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?;
        let value = text(&mut plain)?;
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Some(headers)
}

fn text(plain: &mut &[u8]) -> Option<String> {
    let (head, tail) = plain.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*head) as usize;
    let text = String::from_utf8_lossy(tail.get(..length)?).into_owned();
    *plain = &tail[length..];
    Some(text)
}

/// Writes what is sent to the other side.
pub struct Encoder {
    headers: Compress,
}

impl Encoder {
    /// An encoder at the beginning of a connection.
    pub fn new() -> Result<Self, Error> {
        let mut headers = Compress::new(Compression::fast(), true);
        headers.set_dictionary(&dictionary()).map_err(|e| Error::Headers(e.to_string()))?;
        Ok(Self { headers })
    }

    /// Appends a frame to `buffer`.
    pub fn encode(&mut self, frame: &Frame, buffer: &mut BytesMut) -> Result<(), Error> {
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let packed = self.pack(headers)?;
                control(buffer, SYN_STREAM, u8::from(*fin), 10 + packed.len());
                buffer.put_u32(*id);
                buffer.put_bytes(0, 6);
                buffer.extend_from_slice(&packed);
            }
            Frame::SynReply { id } => {
                let packed = self.pack(&Headers::new())?;
                control(buffer, SYN_REPLY, 0, 4 + packed.len());
                buffer.put_u32(*id);
                buffer.extend_from_slice(&packed);
            }
            Frame::Data { id, bytes, fin } => {
                buffer.put_u32(*id);
                buffer.put_u32(u32::from(*fin) << 24 | (bytes.len() as u32 & 0x00ff_ffff));
                buffer.extend_from_slice(bytes);
            }
            Frame::Reset { id } => {
                control(buffer, RST_STREAM, 0, 8);
                buffer.put_u32(*id);
                // CANCEL.
                buffer.put_u32(5);
            }
            Frame::Ping(id) => {
                control(buffer, PING, 0, 4);
                buffer.put_u32(*id);
            }
            Frame::GoAway => {
                control(buffer, GOAWAY, 0, 8);
                buffer.put_u64(0);
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn pack(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.extend_from_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 256);
        let start = self.headers.total_in();
        loop {
            let taken = (self.headers.total_in() - start) as usize;
            self.headers
                .compress_vec(&plain[taken..], &mut packed, FlushCompress::Sync)
                .map_err(|e| Error::Headers(e.to_string()))?;
            if packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(packed.len());
        }
    }
}

fn control(buffer: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    buffer.put_u16(0x8000 | VERSION);
    buffer.put_u16(kind);
    buffer.put_u32(u32::from(flags) << 24 | (length as u32 & 0x00ff_ffff));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        // Adler-32 of the dictionary, as every SPDY/3 stream carries it in its second word.
        let mut compress = Compress::new(Compression::fast(), true);
        assert_eq!(compress.set_dictionary(&dictionary).unwrap(), 0xe3c6_a7c2);
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn frames_survive_the_way() {
        let mut encoder = Encoder::new().unwrap();
        let mut decoder = Decoder::default();
        let long = "x".repeat(5000);
        let frames = [
            Frame::SynStream { id: 1, headers: headers(&[("streamtype", "error"), ("port", "80")]), fin: true },
            Frame::SynStream { id: 3, headers: headers(&[("streamtype", "data"), ("long", &long)]), fin: false },
            Frame::SynReply { id: 1 },
            Frame::Data { id: 3, bytes: Bytes::from_static(b"hello"), fin: false },
            Frame::Data { id: 3, bytes: Bytes::new(), fin: true },
            Frame::Ping(7),
            Frame::Reset { id: 3 },
            Frame::GoAway,
        ];
        let mut wire = BytesMut::new();
        for frame in &frames {
            encoder.encode(frame, &mut wire).unwrap();
        }
        // Byte by byte, as a slow network would bring them.
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut buffer = BytesMut::from(&[0x80, 0x02, 0, 1, 0, 0, 0, 0][..]);
        assert_eq!(Decoder::default().decode(&mut buffer), Err(Error::Version(2)));
        let mut buffer = BytesMut::from(&[0x80, 0x03, 0, 1, 0, 0, 0, 2, 0, 0][..]);
        assert_eq!(Decoder::default().decode(&mut buffer), Err(Error::Short(SYN_STREAM)));
        let mut buffer = BytesMut::from(&[0x80, 0x03, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1, 9, 9, 9][..]);
        assert!(matches!(Decoder::default().decode(&mut buffer), Err(Error::Headers(_))));
    }
}
