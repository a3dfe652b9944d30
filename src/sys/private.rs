//! Folders and sockets that are nobody else's from their first moment.

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as start_listening, socket,
};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Makes sure that `path` is a folder that only its owner may enter (0700), and that the owner is this user.
///
/// One that is there is closed to others. A folder of root's is taken as it is: root may do as it likes anyway, and its rights are
/// not ours to change. `Ok(true)`: others could write to it until now, so what lies in it may be theirs.
///
/// # Errors
/// One of another user is refused (`PermissionDenied`): its owner could put anything in it, a list of apps to run for one.
pub fn folder(path: &Path) -> io::Result<bool> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)?;
    let found = folder.metadata()?;
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "it belongs to another user (uid {}), who could change what runs from it; give it to uid {own} with chown, or choose another PM2_HOME",
                found.uid()
            ),
        ));
    }
    if found.uid() == own && found.mode() & 0o077 != 0 {
        folder.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(found.mode() & 0o022 != 0)
}

/// Makes sure that `path` is a folder that everybody may read and only this user may write (0755): for what programs of other
/// users are to load.
///
/// # Errors
/// What is there and is anything else, a link included, is refused (`PermissionDenied`): somebody could put another file into it.
pub fn readable_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        // Whatever the umask says.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(path)?;
    let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
    if ours && found.mode() & 0o777 == 0o755 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} is not a folder that only this user may write",
            path.display()
        ),
    ))
}

/// Listens on a socket that only its owner may connect to (0600), in place of one that is there.
///
/// Between `bind` and `listen` nobody can connect, so the rights are set before anybody could make use of others.
///
/// # Errors
/// Something that is neither a socket nor a symbolic link is left alone (`AlreadyExists`); a link itself is replaced, not what it
/// points to.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() || found.is_symlink() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is not a socket lies there; remove it",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    // Linux makes the file with the rights of the socket, so that not even a look at it in between shows others.
    nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &UnixAddr::new(path)?,
    )?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    start_listening(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_folder_is_made_closed_and_one_that_is_open_is_closed() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/b");
        assert!(!folder(&path).unwrap());
        assert_eq!(mode(&path), 0o700);
        for (found, others_wrote) in [(0o755, false), (0o775, true), (0o777, true), (0o700, false)]
        {
            fs::set_permissions(&path, Permissions::from_mode(found)).unwrap();
            assert_eq!(folder(&path).unwrap(), others_wrote, "{found:o}");
            assert_eq!(mode(&path), 0o700);
        }
        let file = outer.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(folder(&file).is_err());
    }

    #[test]
    fn a_socket_is_the_owners_and_replaces_a_socket_or_a_link_but_nothing_else() {
        let outer = tempfile::tempdir().unwrap();
        let (path, other) = (outer.path().join("rpc.sock"), outer.path().join("other"));
        let first = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(first);
        let second = listen(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let third = listen(&path).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        drop(third);
        assert_eq!(
            listen(&other).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
    }
}
