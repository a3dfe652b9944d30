//! The init systems of Linux: by which program each is known, where its file lies, how that is enabled.

use super::files::{self, Facts};

/// An init system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// A unit of Type=notify.
    Systemd,
    /// A script for update-rc.d.
    Upstart,
    /// A script for chkconfig.
    Systemv,
    /// A script for rc-update.
    Openrc,
}

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// One of ours.
    Known(System),
    /// One of another operating system.
    Foreign(&'static str),
    /// None.
    Unknown,
}

impl System {
    /// By the program that is there, in PM2's order.
    pub fn find(there: &dyn Fn(&str) -> bool) -> Option<Self> {
        [
            ("systemctl", System::Systemd),
            ("update-rc.d", System::Upstart),
            ("chkconfig", System::Systemv),
            ("rc-update", System::Openrc),
        ]
        .into_iter()
        .find(|(program, _)| there(program))
        .map(|(_, system)| system)
    }

    /// By the names that PM2 takes.
    pub fn named(word: &str) -> Named {
        match word {
            "systemd" | "ubuntu" | "centos" | "arch" | "oracle" => Named::Known(System::Systemd),
            "upstart" | "ubuntu14" | "ubuntu12" => Named::Known(System::Upstart),
            "systemv" | "amazon" | "centos6" => Named::Known(System::Systemv),
            "openrc" => Named::Known(System::Openrc),
            "launchd" | "macos" | "darwin" => Named::Foreign("macOS"),
            "rcd" | "freebsd" => Named::Foreign("FreeBSD"),
            "rcd-openbsd" | "openbsd" => Named::Foreign("OpenBSD"),
            "smf" | "sunos" | "solaris" => Named::Foreign("Solaris"),
            _ => Named::Unknown,
        }
    }

    /// Its own name.
    pub fn name(self) -> &'static str {
        match self {
            System::Systemd => "systemd",
            System::Upstart => "upstart",
            System::Systemv => "systemv",
            System::Openrc => "openrc",
        }
    }

    /// What the service is called unless it is named.
    pub fn default_name(self, user: &str) -> String {
        match self {
            System::Openrc => "pm2".to_owned(),
            System::Systemd | System::Upstart | System::Systemv => format!("pm2-{user}"),
        }
    }

    /// Where its file lies.
    pub fn file(self, name: &str) -> String {
        match self {
            System::Systemd => format!("/etc/systemd/system/{name}.service"),
            System::Upstart | System::Systemv | System::Openrc => format!("/etc/init.d/{name}"),
        }
    }

    /// The file's mode.
    pub fn mode(self) -> u32 {
        match self {
            System::Systemd => 0o644,
            System::Upstart | System::Systemv | System::Openrc => 0o755,
        }
    }

    /// What the file says.
    pub fn text(self, facts: &Facts) -> String {
        match self {
            System::Systemd => files::unit(facts),
            System::Upstart | System::Systemv => files::lsb_script(facts),
            System::Openrc => files::openrc_script(facts),
        }
    }

    /// The commands that enable it.
    pub fn enabling(self, name: &str) -> Vec<Vec<String>> {
        match self {
            System::Systemd => lines(&["systemctl daemon-reload", "systemctl enable {}"], name),
            System::Upstart => lines(&["update-rc.d {} defaults"], name),
            System::Systemv => lines(&["chkconfig --add {}", "chkconfig {} on"], name),
            System::Openrc => lines(&["rc-update add {} default"], name),
        }
    }

    /// The commands that stop and disable it.
    pub fn disabling(self, name: &str) -> Vec<Vec<String>> {
        match self {
            System::Systemd => lines(&["systemctl stop {}", "systemctl disable {}"], name),
            System::Upstart => lines(&["update-rc.d -f {} remove"], name),
            System::Systemv => lines(&["chkconfig --del {}"], name),
            System::Openrc => lines(&["rc-service {} stop", "rc-update del {} default"], name),
        }
    }
}

fn lines(texts: &[&str], name: &str) -> Vec<Vec<String>> {
    texts
        .iter()
        .map(|text| {
            text.split(' ')
                .map(|word| word.replace("{}", name))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_pm2_takes_is_known_or_explained() {
        for name in [
            "systemd", "ubuntu", "centos", "arch", "oracle", "upstart", "ubuntu14", "ubuntu12",
            "systemv", "amazon", "centos6", "openrc",
        ] {
            assert!(matches!(System::named(name), Named::Known(_)), "{name}");
        }
        for name in [
            "launchd",
            "macos",
            "darwin",
            "rcd",
            "freebsd",
            "rcd-openbsd",
            "openbsd",
            "smf",
            "sunos",
            "solaris",
        ] {
            assert!(matches!(System::named(name), Named::Foreign(_)), "{name}");
        }
        assert_eq!(System::named("windows"), Named::Unknown);
    }

    #[test]
    fn the_first_program_that_is_there_decides() {
        let with =
            |programs: &'static [&str]| System::find(&move |program| programs.contains(&program));
        assert_eq!(with(&["rc-update", "systemctl"]), Some(System::Systemd));
        assert_eq!(with(&["update-rc.d", "chkconfig"]), Some(System::Upstart));
        assert_eq!(with(&["chkconfig"]), Some(System::Systemv));
        assert_eq!(with(&["rc-update"]), Some(System::Openrc));
        assert_eq!(with(&["launchctl"]), None);
    }
}
