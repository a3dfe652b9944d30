//! Memory that outlives its process: a sparse memfd of a fixed size, in three parts that do not overlap.
//!
//! Words are mapped and changed one at a time, each as a whole. A buffer is mapped and filled from pipes, so that the kernel keeps
//! how much was taken. The rest is not mapped: it costs no resident memory, and is read and written by system calls.

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, SpliceFFlags, fallocate, fcntl, splice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mlock, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Whence, lseek, read};
use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long the parts are, in bytes, in the order in which they lie in the file. The first two are whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The words.
    pub words: usize,
    /// The buffer.
    pub buffer: usize,
    /// The rest.
    pub rest: u64,
}

impl Sizes {
    fn total(&self) -> u64 {
        self.words as u64 + self.buffer as u64 + self.rest
    }
}

/// The three parts of one memfd.
pub type Parts = (Words, Buffer, Rest);

/// Makes a memfd of this size, full of zeros and closed on exec. Nobody can make it shorter or longer, so that touching it never
/// raises SIGBUS. Fails where the system refuses, and under a limit of file sizes (`ulimit -f`) that is too small.
pub fn create(name: &CStr, sizes: Sizes) -> io::Result<Parts> {
    // The kernel answers a size past this limit with SIGXFSZ.
    if getrlimit(Resource::RLIMIT_FSIZE)?.0 < sizes.total() {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    file.set_len(sizes.total())?;
    let fixed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(fixed))?;
    parts(file, sizes)
}

/// Takes over such a memfd. `InvalidData`: it is none, or of another size.
pub fn adopt(fd: OwnedFd, sizes: Sizes) -> io::Result<Parts> {
    let file = File::from(fd);
    let seals =
        fcntl(&file, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_truncate);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) || file.metadata()?.len() != sizes.total() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    parts(file, sizes)
}

fn parts(file: File, sizes: Sizes) -> io::Result<Parts> {
    let file = Arc::new(file);
    let words = Words {
        map: Mapping::new(&file, 0, sizes.words)?,
    };
    let buffer = Buffer {
        map: Mapping::new(&file, sizes.words, sizes.buffer)?,
        at: sizes.words as u64,
        locked: None,
        file: Arc::clone(&file),
    };
    let start = (sizes.words + sizes.buffer) as u64;
    let len = sizes.rest;
    Ok((words, buffer, Rest { start, len, file }))
}

/// A part of the file in our address space.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is owned, and is reached only through the references that `Words` and `Buffer` give out.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: &File, at: usize, len: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses; the file is sealed, so all of it stays backed.
        let start = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, file, offset) }?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, whole, and no reference outlives its owner. It fails only for a wrong address.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// 64-bit words, all zero at first. A store is seen whole or not at all by whoever comes after a SIGKILL, and stores are seen in
/// their order.
#[derive(Debug)]
pub struct Words {
    map: Mapping,
}

impl Words {
    fn all(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned, mapped for as long as self lives, and reached as atomics only; zeros are valid ones.
        unsafe { std::slice::from_raw_parts(self.map.start.as_ptr().cast(), self.map.len / 8) }
    }

    /// Word number `at`; 0 past the end.
    pub fn load(&self, at: usize) -> u64 {
        self.all()
            .get(at)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets word number `at`; past the end nothing happens.
    pub fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.all().get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

/// A buffer that pipes are read into.
#[derive(Debug)]
pub struct Buffer {
    map: Mapping,
    /// Where it begins in the file.
    at: u64,
    /// How much of it is locked in memory, in bytes; `None`: not asked for yet.
    locked: Option<usize>,
    file: Arc<File>,
}

impl Buffer {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as self lives; it is filled through `&mut self` only, by this process only.
        unsafe { std::slice::from_raw_parts(self.map.start.as_ptr().cast(), self.map.len) }
    }

    /// Its bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.map.start.as_ptr().cast(), self.map.len) }
    }

    /// Makes [`Buffer::splice`] and [`Buffer::spliced`] begin at 0. It fails for a closed file only, which ours is not.
    pub fn rewind(&mut self) -> nix::Result<()> {
        let at = libc::off_t::try_from(self.at).map_err(|_| Errno::EOVERFLOW)?;
        lseek(&self.file, at, Whence::SeekSet).map(|_| ())
    }

    /// Moves what a pipe holds to the start, at most what fits. The kernel moves the file's own offset by what it took, before the
    /// call can be interrupted. `EINVAL`: it is no pipe. 0: it has ended.
    pub fn splice(&mut self, pipe: &OwnedFd) -> nix::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        splice(pipe, None, &self.file, None, self.map.len, flags)
    }

    /// How much was spliced since the last rewind, by whichever process: in bytes.
    pub fn spliced(&self) -> usize {
        let now = lseek(&self.file, 0, Whence::SeekCur).unwrap_or_default();
        let taken = u64::try_from(now).unwrap_or_default().checked_sub(self.at);
        taken
            .and_then(|taken| usize::try_from(taken).ok())
            .filter(|taken| *taken <= self.map.len)
            .unwrap_or(0)
    }

    /// Reads at most `most` bytes to the start, by read(2).
    pub fn read(&mut self, pipe: &OwnedFd, most: usize) -> nix::Result<usize> {
        let bytes = self.bytes_mut();
        let most = most.min(bytes.len());
        read(pipe, &mut bytes[..most])
    }

    /// Keeps its first pages in memory from now on, so that a copy into them cannot fail; gives how many bytes that is. It is less
    /// than all, or none, where the system's limit (`ulimit -l`) is low.
    pub fn lock(&mut self) -> usize {
        let (start, len) = (self.map.start, self.map.len);
        *self.locked.get_or_insert_with(|| {
            let sizes = [len, len / 2, len / 4, len / 8];
            // SAFETY: the beginning of our own mapping.
            let locks = |size: &usize| unsafe { mlock(start, *size) }.is_ok();
            sizes.into_iter().find(locks).unwrap_or(0)
        })
    }
}

/// The part that is not mapped.
#[derive(Debug)]
pub struct Rest {
    start: u64,
    len: u64,
    file: Arc<File>,
}

impl Rest {
    /// The memfd itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Fills `bytes` from place `at`.
    pub fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let place = self.place(at, bytes.len())?;
        self.file.read_exact_at(bytes, place)
    }

    /// Writes at place `at`; `InvalidInput` past the end. What lies in one page is written whole or not at all.
    pub fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let place = self.place(at, bytes.len())?;
        self.file.write_all_at(bytes, place)
    }

    /// Gives the memory of whole pages in `at..at + len` back; they read as zeros.
    pub fn clear(&self, at: u64, len: usize) -> io::Result<()> {
        let place = |n: u64| libc::off_t::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
        let (from, len) = (place(self.place(at, len)?)?, place(len as u64)?);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, hole, from, len)?)
    }

    fn place(&self, at: u64, len: usize) -> io::Result<u64> {
        let fits = at
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len);
        let place = fits.then(|| self.start + at);
        place.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

/// How many bytes a pipe holds now.
pub fn waiting(pipe: &OwnedFd) -> nix::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    unsafe { fionread(pipe.as_raw_fd(), &mut count) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const SIZES: Sizes = Sizes {
        words: 4096,
        buffer: 8192,
        rest: 1 << 40,
    };

    #[test]
    fn what_was_stored_and_taken_is_seen_through_another_mapping() {
        let (words, mut buffer, rest) = create(c"test", SIZES).unwrap();
        words.store(511, 7);
        words.store(512, 8);
        rest.write(b"far", (1 << 40) - 3).unwrap();
        assert!(rest.write(b"farther", (1 << 40) - 3).is_err());
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"abc").unwrap();
        let pipe = OwnedFd::from(reader);
        buffer.rewind().unwrap();
        assert_eq!(waiting(&pipe), Ok(3));
        assert_eq!(buffer.splice(&pipe), Ok(3));
        assert_eq!(buffer.splice(&pipe), Err(Errno::EAGAIN));
        let fd = rest.fd().try_clone_to_owned().unwrap();
        drop((words, buffer, rest));
        let (words, buffer, rest) = adopt(fd, SIZES).unwrap();
        assert_eq!((words.load(511), words.load(512)), (7, 0));
        assert_eq!(buffer.spliced(), 3);
        assert!(buffer.bytes().starts_with(b"abc\0"));
        let mut far = [0; 3];
        rest.read(&mut far, (1 << 40) - 3).unwrap();
        assert_eq!(&far, b"far");
        rest.clear((1 << 40) - 4096, 4096).unwrap();
        rest.read(&mut far, (1 << 40) - 3).unwrap();
        assert_eq!(far, [0; 3]);
    }

    #[test]
    fn a_file_that_can_shrink_is_refused() {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"test", flags).unwrap());
        file.set_len(SIZES.total()).unwrap();
        assert!(adopt(file.into(), SIZES).is_err());
        let (_, _, rest) = create(c"test", SIZES).unwrap();
        let other = Sizes {
            words: 8192,
            ..SIZES
        };
        let fd = rest.fd().try_clone_to_owned().unwrap();
        assert!(adopt(fd, other).is_err());
        assert!(
            File::from(rest.fd().try_clone_to_owned().unwrap())
                .set_len(0)
                .is_err()
        );
    }
}
