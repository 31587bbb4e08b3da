//! Copies from the host that nobody has to wait for, through a few page-locked buffers used in turn.
//!
//! A copy straight from a caller's memory may return before or after it has read that memory (NVIDIA's "API synchronization behavior": it "might be synchronous with respect to host"). The
//! caller would have to wait for everything launched before it. Copying the bytes into a buffer first avoids that: sending the ids of a micro-batch causes no pause.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys as cu;

use super::api::{Api, SUCCESS};

/// Bytes of a buffer.
const BUFFER_BYTES: usize = 1 << 20;

/// Buffers used in turn: one is filled while others are read.
const BUFFERS: usize = 4;

/// Page-locked memory, and the moment its last copy ends.
struct Buffer {
    host: *mut u8,
    copied: cu::CUevent,
}

/// The buffers, made when the first bytes are written.
#[derive(Default)]
pub(super) struct Staging {
    buffers: Vec<Buffer>,
    next: usize,
}

impl Staging {
    /// Copies `src` to `dst` in `stream`; `src` is free again on return. The context is current.
    ///
    /// # Safety
    /// `dst` has room for `src`, and `stream` is of the current context.
    pub(super) unsafe fn write(
        &mut self,
        api: &Api,
        stream: cu::CUstream,
        dst: u64,
        src: &[u8],
    ) -> Result<(), u32> {
        let mut at = dst;
        for bytes in src.chunks(BUFFER_BYTES) {
            let buffer = self.turn(api)?;
            // SAFETY: the buffer holds a chunk and its last copy has ended; the rest is the caller's promise.
            unsafe {
                done((api.cuEventSynchronize)(buffer.copied))?;
                ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.host, bytes.len());
                done((api.cuMemcpyHtoDAsync_v2)(at, buffer.host.cast(), bytes.len(), stream))?;
                done((api.cuEventRecord)(buffer.copied, stream))?;
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// The buffer whose turn it is.
    fn turn(&mut self, api: &Api) -> Result<&Buffer, u32> {
        let index = self.next;
        if index == self.buffers.len() {
            let mut host: *mut c_void = ptr::null_mut();
            let mut copied = ptr::null_mut();
            let untimed = cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: both write one pointer; what was made is freed where the second fails.
            unsafe {
                done((api.cuMemHostAlloc)(&raw mut host, BUFFER_BYTES, 0))?;
                if let Err(status) = done((api.cuEventCreate)(&raw mut copied, untimed)) {
                    let _ = (api.cuMemFreeHost)(host);
                    return Err(status);
                }
            }
            self.buffers.push(Buffer { host: host.cast(), copied });
        }
        self.next = (index + 1) % BUFFERS;
        Ok(&self.buffers[index])
    }

    /// Frees the buffers, once the stream is idle. The context is current.
    pub(super) fn free(&mut self, api: &Api) {
        for buffer in self.buffers.drain(..) {
            // SAFETY: made by `turn`, freed once, no copy under way. There is no one to tell of a failure.
            unsafe {
                let _ = (api.cuEventDestroy_v2)(buffer.copied);
                let _ = (api.cuMemFreeHost)(buffer.host.cast());
            }
        }
    }
}

fn done(status: u32) -> Result<(), u32> {
    if status == SUCCESS { Ok(()) } else { Err(status) }
}
