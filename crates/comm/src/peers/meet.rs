//! How ranks find each other. Rank 0 listens and the others connect. Both sides prove that they know the job's secret, and only then read what the other says; after that they compare what they
//! are running. A connection that fails or stalls cannot hold up the rest.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::frame::{self, Frame};
use super::secret::{Claim, NONCE, PROOF, Secret, random};
use crate::{Error, Result};

/// How a side begins, so that one that is something else is known at once.
const MAGIC: &[u8; 12] = b"farthing/1\r\n";

/// How long a connection may take to prove itself.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that are proving themselves at the same time; more are closed at once.
const AT_ONCE: usize = 64;

/// How often a rank that waits says so.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Bytes of what a rank says of itself.
const MOST_ABOUT: usize = 64 << 10;

/// What must be equal on all ranks, each with a name: the program, the file, what was set on the command line.
pub type About = Vec<(String, String)>;

/// What rank 0 and the others need to come together.
pub(super) struct Meeting<'a> {
    pub(super) ranks: usize,
    pub(super) about: &'a About,
    /// How long to wait for each other.
    pub(super) patience: Duration,
    pub(super) log: &'a dyn Fn(&str),
}

/// A socket of rank 0, on the interface of the address alone.
pub(super) fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let address = resolve(host, port)?;
    TcpListener::bind(address).map_err(|error| {
        let what = format!("rank 0 cannot listen at {address}: {error}");
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another job, or what is left of one, has that port: end it, or set MASTER_PORT to a free one on all ranks"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "set MASTER_ADDR to an address of the machine of rank 0"
            }
            _ => "set MASTER_ADDR and MASTER_PORT to where rank 0 may listen",
        };
        Error::meeting(what, hint)
    })
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let unknown = |what: String| {
        Error::meeting(
            format!("the address of rank 0 is `{host}`: {what}"),
            "set MASTER_ADDR to a name or an address that every machine can reach",
        )
    };
    let found = (host, port).to_socket_addrs().map_err(|e| unknown(e.to_string()))?;
    let found: Vec<SocketAddr> = found.collect();
    let four = found.iter().find(|address| matches!(address.ip(), IpAddr::V4(_)));
    four.or(found.first()).copied().ok_or_else(|| unknown("no address has that name".to_owned()))
}

/// Rank 0: waits for all others; their connections in the order of ranks.
pub(super) fn lead(
    listener: &TcpListener,
    secret: &Secret,
    meeting: &Meeting<'_>,
) -> Result<Vec<TcpStream>> {
    let failed = |e: std::io::Error| {
        Error::meeting(format!("rank 0 cannot listen: {e}"), "see what the system says")
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let (tell, told) = channel();
    let under_way = Arc::new(AtomicUsize::new(0));
    let mut joined: Vec<Option<TcpStream>> = (1..meeting.ranks).map(|_| None).collect();
    let (begun, mut said) = (Instant::now(), Instant::now());
    loop {
        let missing: Vec<usize> =
            (1..meeting.ranks).filter(|&rank| joined[rank - 1].is_none()).collect();
        if missing.is_empty() {
            return Ok(joined.into_iter().flatten().collect());
        }
        let left = meeting.patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(Error::meeting(
                format!(
                    "{} of {} have not come within {} s",
                    named(&missing),
                    meeting.ranks,
                    meeting.patience.as_secs()
                ),
                "see what they say; all ranks need the same MASTER_ADDR and MASTER_PORT, which no firewall keeps apart",
            ));
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            (meeting.log)(&format!("waiting for {} ({} s left)", named(&missing), left.as_secs()));
        }
        while let Ok((stream, from)) = listener.accept() {
            if under_way.load(Relaxed) >= AT_ONCE {
                continue;
            }
            under_way.fetch_add(1, Relaxed);
            let (tell, under_way, secret) = (tell.clone(), Arc::clone(&under_way), secret.clone());
            let prove = move || {
                let proved = greet(stream, &secret);
                under_way.fetch_sub(1, Relaxed);
                // Nobody listens once all are there.
                let _ = tell.send((from, proved));
            };
            std::thread::Builder::new()
                .name("handshake".to_owned())
                .spawn(prove)
                .map_err(failed)?;
        }
        let (from, proved) = match told.recv_timeout(Duration::from_millis(20)) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => continue,
        };
        let Joined { rank, ranks, about, mut stream } = match proved {
            Ok(joined) => joined,
            Err(why) => {
                (meeting.log)(&format!("a connection from {from} is none of this job's: {why}"));
                continue;
            }
        };
        let taken = rank == 0 || joined.get(rank - 1).is_none_or(Option::is_some);
        let refused = if ranks != meeting.ranks {
            Some(format!("rank {rank} is one of {ranks}, rank 0 of {}", meeting.ranks))
        } else if taken {
            Some(format!("there is a rank {rank} already"))
        } else {
            differs(rank, &about, meeting.about)
        };
        let answer = Frame::Failed(refused.clone().unwrap_or_default());
        let answered = frame::write(&mut stream, &answer);
        match refused {
            Some(_) if taken => {
                (meeting.log)(&format!(
                    "a second rank {rank} came, from {from}, and was sent away"
                ));
            }
            Some(what) => {
                return Err(Error::meeting(
                    what,
                    "start every rank with the same program, file and options",
                ));
            }
            None if answered.is_ok() => joined[rank - 1] = Some(stream),
            None => {}
        }
    }
}

/// `rank 3`, or `ranks 3, 4 and 7`.
fn named(ranks: &[usize]) -> String {
    match ranks {
        [one] => format!("rank {one}"),
        [more @ .., last] => {
            let more: Vec<String> = more.iter().map(ToString::to_string).collect();
            format!("ranks {} and {last}", more.join(", "))
        }
        [] => String::new(),
    }
}

/// What differs between a rank and rank 0.
fn differs(rank: usize, theirs: &About, ours: &About) -> Option<String> {
    let of = |about: &About, name: &str| {
        about.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    };
    let names = ours.iter().chain(theirs).map(|(name, _)| name);
    let (name, here, there) = names
        .map(|name| (name, of(ours, name), of(theirs, name)))
        .find(|(_, here, there)| here != there)?;
    let shown = |value: Option<String>| value.unwrap_or_else(|| "not said".to_owned());
    Some(format!("{name} differs: rank 0 has {}, rank {rank} {}", shown(here), shown(there)))
}

struct Joined {
    rank: usize,
    ranks: usize,
    about: About,
    stream: TcpStream,
}

/// Rank 0's side of a new connection, up to what the other says of itself.
fn greet(mut stream: TcpStream, secret: &Secret) -> Result<Joined, String> {
    let begun = Instant::now();
    let io = |e: std::io::Error| e.to_string();
    prepare(&stream).map_err(io)?;
    let lead: [u8; NONCE] = random().map_err(|e| e.to_string())?;
    stream.write_all(&[&MAGIC[..], &lead].concat()).map_err(io)?;
    let mut said = [0; MAGIC.len() + 8 + NONCE + PROOF];
    read_in_time(&mut stream, &mut said, begun)?;
    let (magic, rest) = said.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("it speaks another protocol".to_owned());
    }
    let (numbers, rest) = rest.split_at(8);
    let (join, proof) = rest.split_at(NONCE);
    let number = |at: usize| u32::from_le_bytes(numbers[at..at + 4].try_into().unwrap_or_default());
    let join: [u8; NONCE] = join.try_into().map_err(|_| String::new())?;
    let (rank, its_ranks) = (number(0), number(4));
    let claim = |side| Claim { side, rank, ranks: its_ranks, lead: &lead, join: &join };
    if !secret.accepts(&claim("join"), proof) {
        return Err("it does not know the job's secret".to_owned());
    }
    stream.write_all(secret.prove(&claim("lead")).as_ref()).map_err(io)?;
    let about = match frame::read(&mut stream, &mut || ()).map_err(io)? {
        Frame::Data { bytes, .. } if bytes.len() <= MOST_ABOUT => {
            serde_json::from_slice(&bytes).map_err(|e| e.to_string())?
        }
        _ => return Err("it said something else than what it is".to_owned()),
    };
    Ok(Joined { rank: rank as usize, ranks: its_ranks as usize, about, stream })
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))
}

/// Reads all of `bytes`, not one now and then.
fn read_in_time(stream: &mut TcpStream, bytes: &mut [u8], begun: Instant) -> Result<(), String> {
    let mut have = 0;
    while have < bytes.len() {
        let left = HANDSHAKE.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err("it did not say in time who it is".to_owned());
        }
        stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        match stream.read(&mut bytes[have..]) {
            Ok(0) => return Err("it hung up".to_owned()),
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if would_wait(&e) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(())
}

pub(super) fn would_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Why a rank did not come in.
enum NotIn {
    /// Rank 0 may be there later, or have another secret then.
    Yet(String),
    Ever(Error),
}

/// Another rank: connects to rank 0, again and again until it is there. `secret` is asked each time: a file of it may be written later.
pub(super) fn join(
    (host, port): (&str, u16),
    rank: usize,
    secret: &dyn Fn() -> Result<Option<Secret>>,
    meeting: &Meeting<'_>,
) -> Result<TcpStream> {
    let (begun, mut said) = (Instant::now(), Instant::now());
    loop {
        let yet = match secret()? {
            None => "there is no secret of the job yet (FARTHING_SECRET, or what rank 0 leaves where all ranks see it)".to_owned(),
            Some(secret) => match try_to_join((host, port), rank, &secret, meeting) {
                Ok(stream) => return Ok(stream),
                Err(NotIn::Yet(why)) => why,
                Err(NotIn::Ever(error)) => return Err(error),
            },
        };
        let left = meeting.patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(Error::meeting(
                format!(
                    "rank {rank} has not reached rank 0 at {host}:{port} within {} s: {yet}",
                    meeting.patience.as_secs()
                ),
                "see whether rank 0 runs; all ranks need the same MASTER_ADDR and MASTER_PORT, which no firewall keeps apart",
            ));
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let left = left.as_secs();
            (meeting.log)(&format!(
                "rank {rank} looks for rank 0 at {host}:{port}: {yet} ({left} s left)"
            ));
        }
        std::thread::sleep(Duration::from_millis(100).min(left));
    }
}

fn try_to_join(
    (host, port): (&str, u16),
    rank: usize,
    secret: &Secret,
    meeting: &Meeting<'_>,
) -> Result<TcpStream, NotIn> {
    let yet = |e: std::io::Error| NotIn::Yet(e.to_string());
    let address = resolve(host, port).map_err(|e| NotIn::Yet(e.to_string()))?;
    let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE).map_err(yet)?;
    prepare(&stream).map_err(yet)?;
    let mut hello = [0; MAGIC.len() + NONCE];
    let stranger = |what: &str| {
        NotIn::Ever(Error::meeting(
            format!("what listens at {address} is not rank 0: {what}"),
            "set MASTER_PORT to a port that nothing else has, the same on all ranks",
        ))
    };
    if let Err(why) = read_in_time(&mut stream, &mut hello, Instant::now()) {
        // What closes at once may be about to end; what says nothing is something else.
        return Err(if why == "it hung up" { NotIn::Yet(why) } else { stranger(&why) });
    }
    let (magic, lead) = hello.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(stranger("it speaks another protocol"));
    }
    let lead: [u8; NONCE] = lead.try_into().map_err(|_| stranger(""))?;
    let join: [u8; NONCE] = random().map_err(NotIn::Ever)?;
    let (number, ranks) = (rank as u32, meeting.ranks as u32);
    let claim = |side| Claim { side, rank: number, ranks, lead: &lead, join: &join };
    let numbers = [number.to_le_bytes(), ranks.to_le_bytes()].concat();
    let proof = secret.prove(&claim("join"));
    stream.write_all(&[&MAGIC[..], &numbers, &join, proof.as_ref()].concat()).map_err(yet)?;
    let mut theirs = [0; PROOF];
    read_in_time(&mut stream, &mut theirs, Instant::now()).map_err(|_| {
        NotIn::Yet("rank 0 does not take this rank's secret for its own".to_owned())
    })?;
    if !secret.accepts(&claim("lead"), &theirs) {
        return Err(stranger("it does not know the job's secret"));
    }
    let about = serde_json::to_vec(meeting.about).unwrap_or_default();
    let about = Frame::Data { sequence: 0, during: 0, bytes: about };
    frame::write(&mut stream, &about).map_err(yet)?;
    match frame::read(&mut stream, &mut || ()).map_err(yet)? {
        Frame::Failed(why) if why.is_empty() => Ok(stream),
        Frame::Failed(why) => Err(NotIn::Ever(Error::meeting(
            why,
            "start every rank with the same program, file and options",
        ))),
        _ => Err(stranger("it answers something else")),
    }
}
