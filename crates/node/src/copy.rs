//! `aleph-node message-node copy`: from SQLite to PostgreSQL.

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::options::CopyOptions;

/// Copies, and says how far it is on standard error when that is a terminal.
pub(crate) async fn run(options: &CopyOptions, shutdown: CancellationToken, json: bool) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} rows, {eta} left");
    let bar = ProgressBar::new(0).with_style(style.expect("the template is right"));
    let copying = message_node::copy(&options.data_dir, &options.to, |copied| {
        bar.set_length(copied.of);
        bar.set_position(copied.rows);
    });
    let copied = tokio::select! {
        copied = copying => copied?,
        () = shutdown.cancelled() => bail!("the copy was interrupted; nothing is in the new database"),
    };
    bar.finish_and_clear();
    if json {
        println!("{}", serde_json::json!({ "rows": copied.rows }));
    } else {
        println!("copied {} rows", copied.rows);
        println!("start the message node with the same --data-dir, which still has its files, and --store");
    }
    Ok(())
}
