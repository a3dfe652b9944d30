//! What a program's starter has decided about its signals (sigaction(2)).

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Has SIGINT, SIGQUIT and SIGTERM end this process again. A shell without job control starts what is to run in the background with the
/// first two ignored, and a program that runs until it is interrupted would never end.
pub fn may_interrupt() {
    let usual = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: no handler is installed, so nothing runs in one.
        // It fails for no signal of these.
        let _ = unsafe { sigaction(signal, &usual) };
    }
}
