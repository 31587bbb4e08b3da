//! Global memory: the allocations that the host makes and kernels use. Every byte is marked as written or not.
//!
//! An address is `allocation << 40 | offset`, so a kernel's arithmetic errors cannot lead from one allocation into another. Words are atomics: when blocks race, they get some value, and never
//! undefined behaviour in the emulator.

use crate::error::{Error, FaultKind, Result};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

/// An address in global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer(pub(crate) u64);

impl Pointer {
    /// The null pointer.
    pub const NULL: Pointer = Pointer(0);

    /// What [`address`](Pointer::address) gave, perhaps after arithmetic; it is checked where it is used.
    pub fn from_address(address: u64) -> Pointer {
        Pointer(address)
    }

    /// This address plus `bytes`.
    #[must_use]
    pub fn offset(self, bytes: i64) -> Pointer {
        Pointer(self.0.wrapping_add_signed(bytes))
    }

    /// The address as a kernel sees it.
    pub fn address(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The allocations' numbers end here; above are the windows of the other spaces in generic addresses.
const LAST_ALLOCATION: u64 = (1 << 22) - 1;
pub(crate) const SHARED_WINDOW: u64 = (1 << 22) << 40;
pub(crate) const LOCAL_WINDOW: u64 = (1 << 22 | 1) << 40;
pub(crate) const PARAM_WINDOW: u64 = (1 << 22 | 2) << 40;

mod sealed {
    pub trait Sealed {}
}

/// A number type that the host can upload and read back.
pub trait Element: Copy + sealed::Sealed {
    #[doc(hidden)]
    const BYTES: usize;
    #[doc(hidden)]
    fn put(self, out: &mut [u8]);
    #[doc(hidden)]
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($($t:ty),*) => {$(
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const BYTES: usize = size_of::<$t>();
            fn put(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(bytes);
                <$t>::from_le_bytes(b)
            }
        }
    )*};
}
element!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

pub(crate) struct Allocation {
    bytes: u64,
    words: Box<[AtomicU32]>,
    /// One bit per byte of a word: it was written.
    written: Box<[AtomicU8]>,
    /// Who used each byte in the current launch; `None` outside of one, and where nobody asks.
    users: Option<Users>,
    constant: bool,
    name: Option<String>,
}

/// Bytes whose users are recorded together, from the first use of one of them: a launch costs what it touches, not all memory there is.
const USER_PAGE: usize = 4096;

/// Who used each byte: writer block + 1, reader block + 1 above it (all ones: several).
struct Users(Box<[OnceLock<Box<[AtomicU64]>>]>);

impl Users {
    fn new(bytes: u64) -> Users {
        Users((0..bytes.div_ceil(USER_PAGE as u64)).map(|_| OnceLock::new()).collect())
    }

    /// Those of `bytes` bytes at `offset`, which lie in one page: both are of an aligned access.
    fn of(&self, offset: usize, bytes: usize) -> &[AtomicU64] {
        let page = self.0[offset / USER_PAGE]
            .get_or_init(|| (0..USER_PAGE).map(|_| AtomicU64::new(0)).collect());
        &page[offset % USER_PAGE..][..bytes]
    }
}

/// The global memory of an emulated GPU.
#[derive(Default)]
pub struct Memory {
    allocations: Vec<Option<Allocation>>,
    locks: Locks,
    /// The variables of each module that was launched with this memory, known by its text.
    pub(crate) modules: Vec<(Arc<str>, Vec<Pointer>)>,
}

struct Locks([Mutex<()>; 64]);

impl Default for Locks {
    fn default() -> Self {
        Locks(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.allocations.iter().flatten();
        f.debug_struct("Memory")
            .field("allocations", &live.clone().count())
            .field("bytes", &live.map(|a| a.bytes).sum::<u64>())
            .finish_non_exhaustive()
    }
}

/// Who makes a checked access.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    /// Refuse reads of unwritten bytes.
    pub(crate) initialised: bool,
    /// Linear index of the block.
    pub(crate) block: u32,
    /// Whole or not at all, also at 8 bytes.
    pub(crate) atomic: bool,
}

impl Memory {
    /// Memory without allocations.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Reserves `bytes` that are uninitialised: reading them before a kernel or the host has written them is an error.
    pub fn alloc(&mut self, bytes: usize) -> Pointer {
        self.allocate(bytes as u64, false, None)
    }

    pub(crate) fn allocate(&mut self, bytes: u64, constant: bool, name: Option<String>) -> Pointer {
        let words = bytes.div_ceil(4);
        self.allocations.push(Some(Allocation {
            bytes,
            words: (0..words).map(|_| AtomicU32::new(u32::MAX)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
            users: None,
            constant,
            name,
        }));
        let id = self.allocations.len() as u64;
        assert!(id <= LAST_ALLOCATION, "more than four million allocations");
        Pointer(id << 40)
    }

    /// A new allocation with a copy of `values`.
    pub fn upload<T: Element>(&mut self, values: &[T]) -> Pointer {
        let at = self.alloc(values.len() * T::BYTES);
        self.put(at.0, values);
        at
    }

    /// Copies `values` to `at`.
    ///
    /// # Errors
    /// If they do not fit into the allocation there.
    pub fn write<T: Element>(&mut self, at: Pointer, values: &[T]) -> Result<()> {
        self.find(at.0, (values.len() * T::BYTES) as u64)
            .map_err(|k| Error::Memory(k.to_string()))?;
        self.put(at.0, values);
        Ok(())
    }

    /// The caller has checked that the values fit.
    fn put<T: Element>(&self, at: u64, values: &[T]) {
        let mut bytes = [0u8; 8];
        for (i, v) in values.iter().enumerate() {
            v.put(&mut bytes[..T::BYTES]);
            for (j, b) in bytes[..T::BYTES].iter().enumerate() {
                self.put_byte(at + (i * T::BYTES + j) as u64, *b);
            }
        }
    }

    pub(crate) fn put_byte(&self, at: u64, value: u8) {
        if let Ok((a, offset)) = self.find(at, 1) {
            let (word, byte) = (offset / 4, offset % 4);
            let old = a.words[word].load(Relaxed) & !(0xff << (8 * byte));
            a.words[word].store(old | (value as u32) << (8 * byte), Relaxed);
            a.written[word].fetch_or(1 << byte, Relaxed);
        }
    }

    /// Copies `count` values from `at`.
    ///
    /// # Errors
    /// If they reach beyond the allocation, or if one of their bytes was never written.
    pub fn read<T: Element>(&self, at: Pointer, count: usize) -> Result<Vec<T>> {
        let size = (count * T::BYTES) as u64;
        let (a, from) = self.find(at.0, size).map_err(|k| Error::Memory(k.to_string()))?;
        let mut out = Vec::with_capacity(count);
        let mut bytes = [0u8; 8];
        for i in 0..count {
            for (j, b) in bytes[..T::BYTES].iter_mut().enumerate() {
                let offset = from + i * T::BYTES + j;
                if a.written[offset / 4].load(Relaxed) >> (offset % 4) & 1 == 0 {
                    return Err(Error::Memory(format!(
                        "value {i} of {count} at {} was never written",
                        self.place(at.0)
                    )));
                }
                *b = (a.words[offset / 4].load(Relaxed) >> (8 * (offset % 4))) as u8;
            }
            out.push(T::get(&bytes[..T::BYTES]));
        }
        Ok(out)
    }

    /// Gives an allocation back; any later use of it is an error.
    ///
    /// # Errors
    /// If `at` is not the start of a live allocation.
    pub fn free(&mut self, at: Pointer) -> Result<()> {
        let slot = (at.0 >> 40).checked_sub(1).and_then(|i| self.allocations.get_mut(i as usize));
        match slot {
            Some(a @ Some(_)) if at.0 & ((1 << 40) - 1) == 0 => {
                *a = None;
                Ok(())
            }
            _ => Err(Error::Memory(format!("{at} is not the start of an allocation"))),
        }
    }

    /// An address in words.
    pub(crate) fn place(&self, address: u64) -> String {
        let offset = address & ((1 << 40) - 1);
        match (address >> 40).checked_sub(1).and_then(|i| self.allocations.get(i as usize)) {
            Some(Some(Allocation { name: Some(name), .. })) => format!("`{name}` + {offset}"),
            Some(Some(_)) => format!("allocation {} + {offset}", address >> 40),
            Some(None) => format!("allocation {} (freed) + {offset}", address >> 40),
            None => format!("address {address:#x}"),
        }
    }

    fn find(
        &self,
        address: u64,
        bytes: u64,
    ) -> std::result::Result<(&Allocation, usize), FaultKind> {
        let offset = address & ((1 << 40) - 1);
        let slot = (address >> 40).checked_sub(1).and_then(|i| self.allocations.get(i as usize));
        match slot {
            Some(Some(a)) if offset + bytes <= a.bytes => Ok((a, offset as usize)),
            other => Err(FaultKind::OutOfBounds {
                place: self.place(address),
                bytes: bytes as u32,
                bounds: match other {
                    Some(Some(a)) => format!("the allocation has {} bytes", a.bytes),
                    Some(None) => "it was freed".into(),
                    None if address >> 40 == 0 => "no allocation is there (a null pointer?)".into(),
                    None => "no allocation is there".into(),
                },
            }),
        }
    }

    /// Finds 1, 2, 4, 8 or 16 aligned bytes.
    fn checked(
        &self,
        address: u64,
        bytes: u32,
    ) -> std::result::Result<(&Allocation, usize), FaultKind> {
        let found = self.find(address, bytes as u64)?;
        if address & (bytes as u64 - 1) != 0 {
            return Err(FaultKind::Misaligned { place: self.place(address), bytes });
        }
        Ok(found)
    }

    /// Reads 1, 2, 4, 8 or 16 bytes as a little-endian integer.
    pub(crate) fn load(
        &self,
        address: u64,
        bytes: u32,
        how: Access,
    ) -> std::result::Result<u128, FaultKind> {
        let (a, offset) = self.checked(address, bytes)?;
        let word = offset / 4;
        if how.initialised {
            let whole = if bytes < 4 {
                let mask = ((1u8 << bytes) - 1) << (offset % 4);
                a.written[word].load(Relaxed) & mask == mask
            } else {
                a.written[word..word + bytes as usize / 4].iter().all(|w| w.load(Relaxed) == 15)
            };
            if !whole {
                return Err(FaultKind::Uninitialised { place: self.place(address), bytes });
            }
        }
        self.meet(a, address, offset, bytes, how, false)?;
        let w = |i: usize| a.words[word + i].load(Relaxed) as u128;
        Ok(match bytes {
            1 => w(0) >> (8 * (offset % 4)) & 0xff,
            2 => w(0) >> (8 * (offset % 4)) & 0xffff,
            4 => w(0),
            8 => {
                let _whole = how.atomic.then(|| self.lock(address));
                w(0) | w(1) << 32
            }
            _ => w(0) | w(1) << 32 | w(2) << 64 | w(3) << 96,
        })
    }

    /// Writes the lower 1, 2, 4, 8 or 16 bytes of `value`.
    pub(crate) fn store(
        &self,
        address: u64,
        bytes: u32,
        value: u128,
        how: Access,
    ) -> std::result::Result<(), FaultKind> {
        let (a, offset) = self.checked(address, bytes)?;
        if a.constant {
            return Err(FaultKind::Operand {
                what: format!("a write to constant memory, {}", self.place(address)),
            });
        }
        self.meet(a, address, offset, bytes, how, true)?;
        let word = offset / 4;
        if bytes < 4 {
            let shift = 8 * (offset % 4);
            let mask = ((1u32 << (8 * bytes)) - 1) << shift;
            let bits = (value as u32) << shift & mask;
            a.words[word].fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | bits)).ok();
            a.written[word].fetch_or(((1u8 << bytes) - 1) << (offset % 4), Relaxed);
            return Ok(());
        }
        let _whole = (bytes == 8 && how.atomic).then(|| self.lock(address));
        for i in 0..bytes as usize / 4 {
            a.words[word + i].store((value >> (32 * i)) as u32, Relaxed);
            a.written[word + i].store(15, Relaxed);
        }
        Ok(())
    }

    /// Replaces 2, 4, 8 or 16 bytes by a function of themselves, whole with respect to other updates; gives the old value.
    pub(crate) fn update(
        &self,
        address: u64,
        bytes: u32,
        how: Access,
        f: &dyn Fn(u128) -> u128,
    ) -> std::result::Result<u128, FaultKind> {
        if bytes == 4 {
            self.load(address, bytes, how)?;
            let (a, offset) = self.checked(address, bytes)?;
            let old =
                a.words[offset / 4].fetch_update(Relaxed, Relaxed, |w| Some(f(w as u128) as u32));
            return Ok(old.unwrap_or_else(|w| w) as u128);
        }
        let how = Access { atomic: false, ..how };
        let _whole = self.lock(address);
        let old = self.load(address, bytes, how)?;
        self.store(address, bytes, f(old), how)?;
        Ok(old)
    }

    fn lock(&self, address: u64) -> std::sync::MutexGuard<'_, ()> {
        let lock = &self.locks.0[(address >> 4) as usize % 64];
        lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts (or ends) the record of which block uses which byte.
    pub(crate) fn record_users(&mut self, on: bool) {
        for a in self.allocations.iter_mut().flatten() {
            a.users = on.then(|| Users::new(a.bytes));
        }
    }

    /// Two blocks meet on a byte, at least one writing.
    fn meet(
        &self,
        a: &Allocation,
        address: u64,
        offset: usize,
        bytes: u32,
        how: Access,
        write: bool,
    ) -> std::result::Result<(), FaultKind> {
        let Some(users) = &a.users else { return Ok(()) };
        if how.atomic {
            return Ok(());
        }
        let me = how.block as u64 + 1;
        for (i, user) in users.of(offset, bytes as usize).iter().enumerate() {
            let old = user
                .fetch_update(Relaxed, Relaxed, |u| {
                    let (writer, reader) = (u & 0xffff_ffff, u >> 32);
                    Some(if write {
                        reader << 32 | me
                    } else {
                        let several = reader != 0 && reader != me;
                        (if several { 0xffff_ffff } else { me }) << 32 | writer
                    })
                })
                .unwrap_or_else(|u| u);
            let (writer, reader) = (old & 0xffff_ffff, old >> 32);
            let other = if writer != 0 && writer != me {
                Some(("write", writer))
            } else if write && reader != 0 && reader != me {
                Some(("read", reader))
            } else {
                None
            };
            if let Some((verb, who)) = other {
                let who = if who == 0xffff_ffff {
                    "several blocks".to_owned()
                } else {
                    format!("block {} (linear)", who - 1)
                };
                return Err(FaultKind::Race {
                    what: format!(
                        "a {} against a {verb} by {who} in the same launch, at",
                        if write { "write" } else { "read" }
                    ),
                    place: self.place(address + i as u64),
                });
            }
        }
        Ok(())
    }
}
