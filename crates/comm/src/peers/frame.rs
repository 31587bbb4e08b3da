//! What travels on a connection between two ranks that have proved who they are: a kind, a length, and as many bytes.

use std::io::{self, Read, Write};

/// A frame is no longer: a piece of a checkpoint has 4 MiB.
pub(super) const MOST: usize = 64 << 20;

/// How many bytes are read before the reader notes that something was heard.
const PIECE: usize = 1 << 20;

/// What one rank says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// It is there, and has come to this collective.
    Beat { sequence: u64, during: String },
    /// Its part of a collective.
    Data { sequence: u64, during: u8, bytes: Vec<u8> },
    /// It stops, for this reason.
    Failed(String),
    /// It has done its work.
    Bye,
}

const BEAT: u8 = 1;
const DATA: u8 = 2;
const FAILED: u8 = 3;
const BYE: u8 = 4;

/// Writes a frame in one piece.
pub(super) fn write(to: &mut dyn Write, frame: &Frame) -> io::Result<()> {
    let (kind, head, body): (u8, Vec<u8>, &[u8]) = match frame {
        Frame::Beat { sequence, during } => {
            (BEAT, sequence.to_le_bytes().to_vec(), during.as_bytes())
        }
        Frame::Data { sequence, during, bytes } => {
            (DATA, [&sequence.to_le_bytes()[..], &[*during]].concat(), bytes)
        }
        Frame::Failed(why) => (FAILED, vec![], why.as_bytes()),
        Frame::Bye => (BYE, vec![], &[]),
    };
    let length = head.len() + body.len();
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long");
    let length = u32::try_from(length).map_err(|_| too_long())?;
    let mut start = Vec::with_capacity(32);
    start.push(kind);
    start.extend(length.to_le_bytes());
    start.extend(head);
    if body.len() < 4_096 {
        start.extend_from_slice(body);
        return to.write_all(&start);
    }
    to.write_all(&start)?;
    to.write_all(body)
}

/// Reads a frame; `heard` is called whenever something has come.
pub(super) fn read(from: &mut dyn Read, heard: &mut dyn FnMut()) -> io::Result<Frame> {
    let strange = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut start = [0; 5];
    from.read_exact(&mut start)?;
    heard();
    let [kind, length @ ..] = start;
    let length = u32::from_le_bytes(length) as usize;
    if length > MOST + 16 {
        return Err(strange("a frame of more bytes than any has"));
    }
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let have = bytes.len();
        bytes.resize(length.min(have + PIECE), 0);
        from.read_exact(&mut bytes[have..])?;
        heard();
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (kind, bytes.split_first_chunk::<8>()) {
        (BEAT, Some((sequence, rest))) => {
            Ok(Frame::Beat { sequence: u64::from_le_bytes(*sequence), during: text(rest) })
        }
        (DATA, Some((sequence, [during, _rest @ ..]))) => {
            let (sequence, during) = (u64::from_le_bytes(*sequence), *during);
            bytes.drain(..9);
            Ok(Frame::Data { sequence, during, bytes })
        }
        (FAILED, _) => Ok(Frame::Failed(text(&bytes))),
        (BYE, _) => Ok(Frame::Bye),
        _ => Err(strange("a frame that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let data = |n: usize| Frame::Data { sequence: 7, during: 1, bytes: vec![3; n] };
        let beat = Frame::Beat { sequence: u64::MAX, during: "gather".to_owned() };
        for frame in
            [beat, data(0), data(1), data(3_000_000), Frame::Failed("why".into()), Frame::Bye]
        {
            let mut bytes = Vec::new();
            write(&mut bytes, &frame).unwrap();
            let mut heard = 0;
            assert_eq!(read(&mut &bytes[..], &mut || heard += 1).unwrap(), frame);
            assert!(heard >= 1);
            for short in [0, 4, bytes.len() - 1] {
                assert!(read(&mut &bytes[..short], &mut || ()).is_err());
            }
        }
    }

    #[test]
    fn a_length_beyond_any_is_refused_before_it_is_held() {
        for bytes in [[DATA, 255, 255, 255, 255], [9, 0, 0, 0, 0], [BEAT, 0, 0, 0, 0]] {
            let error = read(&mut &bytes[..], &mut || ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
