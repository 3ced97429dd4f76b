//! An interpreter that is started before it is known for which program.

use std::collections::BTreeMap;
use std::io;

use aleph_guest::{FromGuest, base_environment};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;

use crate::program::{Channel, start_glue};

/// What the glue is told to become.
#[derive(Serialize)]
struct Become<'a> {
    module: &'a str,
    attribute: &'a str,
    /// All of its environment.
    environment: BTreeMap<&'a str, &'a str>,
}

/// An interpreter that has imported the server and what the image names, and waits. It ends when this is dropped.
pub(crate) struct Interpreter {
    pid: Pid,
    channel: Option<Channel>,
}

impl Interpreter {
    /// Starts one and waits until it waits. The error says why the image cannot have one.
    pub(crate) async fn warm() -> Result<Self, String> {
        // Not in the code's directory, which the code is mounted over later.
        let (pid, channel) = start_glue(&["--wait"], "/", &base_environment()).map_err(|(_, message)| message)?;
        let mut interpreter = Self { pid, channel: Some(channel) };
        let channel = interpreter.channel.as_mut().expect("it is there until it is given away");
        match channel.receive().await {
            Some(FromGuest::Ready) => Ok(interpreter),
            Some(FromGuest::Failed { message, .. }) => Err(message),
            _ => Err("the interpreter ended before it waited".to_owned()),
        }
    }

    /// Has it become a program. What becomes of that is told by the channel.
    ///
    /// # Errors
    /// When it has ended meanwhile.
    pub(crate) async fn become_program(
        mut self,
        module: &str,
        attribute: &str,
        environment: &[(String, String)],
    ) -> io::Result<(Pid, Channel)> {
        let environment = environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut channel = self.channel.take().expect("it is given away once");
        channel.send(&Become { module, attribute, environment }).await?;
        Ok((self.pid, channel))
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        if self.channel.is_some() {
            // It is collected with the other children that end.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }
}
