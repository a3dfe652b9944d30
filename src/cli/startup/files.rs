//! The files themselves: systemd's unit, a script with LSB's head, and one of OpenRC.

use super::watcher::UNIT_VARIABLE;
use std::path::PathBuf;

/// Where init systems look for programs whatever the shell says.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a file is made of. Names are plain words; nothing holds a control character.
pub struct Facts {
    /// The service's name.
    pub name: String,
    /// Whose processes they are.
    pub user: String,
    /// PATH of whoever asked, where node and python are found.
    pub path: String,
    /// PM2_HOME.
    pub pm2_home: String,
    /// This program.
    pub program: PathBuf,
    /// Wait for the network to be up.
    pub wait_ip: bool,
}

impl Facts {
    fn whole_path(&self) -> String {
        match self.path.as_str() {
            "" => USUAL_PATH.to_owned(),
            path => format!("{path}:{USUAL_PATH}"),
        }
    }
}

/// The unit. What its lines promise stands in docs/startup.md.
pub fn unit(facts: &Facts) -> String {
    let network = match facts.wait_ip {
        true => "After=network-online.target\nWants=network-online.target",
        false => "After=network.target",
    };
    let wanted = match facts.wait_ip {
        true => "network-online.target",
        false => "multi-user.target",
    };
    let program = in_unit(&facts.program.to_string_lossy());
    format!(
        "[Unit]
Description=Fornax process manager ({user})
{network}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
Environment={path}
Environment={home}
Environment={UNIT_VARIABLE}=%n
ExecStart={program} systemd-unit
ExecReload={program} update
# Apps and their manager outlive the main process: a restart of this unit restarts no app.
KillMode=process
Restart=on-failure
RestartSec=1
WatchdogSec=120
TimeoutStartSec=300
TimeoutStopSec=150
# One app that runs out of memory is its own affair.
OOMPolicy=continue
Delegate=yes
TasksMax=infinity
LimitNOFILE=infinity
LimitNPROC=infinity
LimitCORE=infinity

[Install]
WantedBy={wanted}
",
        user = facts.user,
        path = in_unit(&format!("PATH={}", facts.whole_path())),
        home = in_unit(&format!("PM2_HOME={}", facts.pm2_home)),
    )
}

/// A word as a unit file takes it: quoted, with specifiers and quotes escaped (systemd.syntax(7), systemd.unit(5)).
fn in_unit(word: &str) -> String {
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%");
    format!("\"{escaped}\"")
}

/// A word as sh takes it.
fn in_sh(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A script for update-rc.d and chkconfig.
pub fn lsb_script(facts: &Facts) -> String {
    let network = match facts.wait_ip {
        true => "$local_fs $remote_fs $network $named",
        false => "$local_fs $remote_fs $network",
    };
    format!(
        r#"#!/bin/sh
# chkconfig: 2345 98 02
# description: Fornax process manager
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    {network}
# Required-Stop:     {network}
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Fornax process manager
### END INIT INFO

program={program}
user={user}
PATH={path}
PM2_HOME={home}
export PATH PM2_HOME

# /etc/default/{name} may set further variables, such as MAX_OPEN_FILES.
[ -f /etc/default/{name} ] && . /etc/default/{name}
[ -n "$MAX_OPEN_FILES" ] && ulimit -n "$MAX_OPEN_FILES"

manager() {{
    if [ "$(id -un)" = "$user" ]; then
        "$program" "$@"
    else
        su "$user" -s /bin/sh -c 'PATH=$1 PM2_HOME=$2; export PATH PM2_HOME; shift 2; exec "$@"' -- sh "$PATH" "$PM2_HOME" "$program" "$@"
    fi
}}

case "$1" in
    start) manager resurrect; touch /var/lock/subsys/{name} 2>/dev/null || : ;;
    stop) manager kill; rm -f /var/lock/subsys/{name} ;;
    restart) manager kill; manager resurrect ;;
    # The program on disk takes over; no app is restarted.
    reload | force-reload) manager update ;;
    status) manager list ;;
    *)
        echo "Usage: $0 start|stop|restart|reload|force-reload|status" >&2
        exit 2
        ;;
esac
"#,
        name = facts.name,
        program = in_sh(&facts.program.to_string_lossy()),
        user = in_sh(&facts.user),
        path = in_sh(&facts.whole_path()),
        home = in_sh(&facts.pm2_home),
    )
}

/// A script for OpenRC.
pub fn openrc_script(facts: &Facts) -> String {
    format!(
        r#"#!/sbin/openrc-run

description="Fornax process manager"
extra_started_commands="reload"

program={program}
user={user}
export PATH={path}
export PM2_HOME={home}

depend() {{
    need localmount net
    after bootmisc
}}

manager() {{
    if [ "$(id -un)" = "$user" ]; then
        "$program" "$@"
    else
        su "$user" -s /bin/sh -c 'PATH=$1 PM2_HOME=$2; export PATH PM2_HOME; shift 2; exec "$@"' -- sh "$PATH" "$PM2_HOME" "$program" "$@"
    fi
}}

start() {{
    ebegin "Starting ${{RC_SVCNAME}}"
    manager resurrect
    eend $?
}}

stop() {{
    ebegin "Stopping ${{RC_SVCNAME}}"
    manager kill
    eend $?
}}

# The program on disk takes over; no app is restarted.
reload() {{
    ebegin "Reloading ${{RC_SVCNAME}}"
    manager update
    eend $?
}}
"#,
        program = in_sh(&facts.program.to_string_lossy()),
        user = in_sh(&facts.user),
        path = in_sh(&facts.whole_path()),
        home = in_sh(&facts.pm2_home),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_words_reach_the_program_as_they_are() {
        assert_eq!(in_unit(r#"A=50% "b" \c"#), r#""A=50%% \"b\" \\c""#);
        let odd = "it's a $(home) `x` \"y\"";
        let said = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", in_sh(odd))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), odd);
    }
}
