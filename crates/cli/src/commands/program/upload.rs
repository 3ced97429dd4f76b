//! `aleph program upload`: packs, checks, uploads, publishes, waits.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use protocol::api::scheduler::VmRecord;
use protocol::message::program::{
    Code as ProgramCode, Environment, Interface, MachineType, Resources, Runtime, Triggers,
};
use protocol::message::{Envelope, MessageTime, Payment, PaymentKind, ProgramContent};
use protocol::{Account, FileName, Isolation, ProgramId};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{logs, url_of};
use crate::args::{UploadArgs, WaitArgs};
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::network::Network;
use crate::output::{facts, printable};
use crate::pack::{Entrypoint, Packed, Source};
use crate::price::tokens;
use crate::units::Variable;
use crate::{price, publish, runtimes, signing, waiting};

/// How many lines of the log are shown when a program does not come up.
const LAST_LINES: u32 = 20;

/// Uploads code and publishes it as a program.
///
/// # Errors
/// Why it could not be done.
pub(super) async fn upload(context: &Context, args: UploadArgs) -> Result<()> {
    let account = context.account()?;
    let source = Source::open(&args.path)?;
    let entrypoint = entrypoint(&args, &source)?;
    let variables = variables(&args.env)?;
    remark(context, &source, source.check_entrypoint(&entrypoint, &args.path)?);

    let network = context.network().await?;
    let waits = args.persistent && !args.wait.no_wait;
    if waits {
        network.require_scheduler_to_wait()?;
    }
    let runtime = runtimes::resolve(context, args.runtime.as_deref(), entrypoint.interface()).await?;
    let packed = pack(context, source, args.encoding.map(Into::into)).await?;

    let file = publish::name(context, &packed).await?;
    let store = signing::store(&account, file, None);
    let content = content(&args, &account, &store, &entrypoint, &packed, runtime, variables);
    let message = signing::program(&account, &content)?;
    let program: ProgramId = message.item_hash.parse()?;
    let price = price::check(context, &account, &message, Some(packed.bytes)).await?;

    let limit = Duration::from_secs(args.wait.wait_seconds);
    send_code(context, &store, &packed, file, limit).await?;
    publish_program(context, &message, limit).await?;
    let uploaded = Uploaded { program, content, packed, file, code: store.item_hash, price };
    let record = match waits {
        true => Some(
            wait_until_ready(context, network, &account, &uploaded.program, uploaded.content.on.http, &args.wait)
                .await?,
        ),
        false => None,
    };
    report(context, network, &uploaded, record.as_ref())
}

/// The program that was published.
struct Uploaded {
    program: ProgramId,
    content: ProgramContent,
    packed: Packed,
    file: FileName,
    code: String,
    price: Option<Decimal>,
}

fn entrypoint(args: &UploadArgs, source: &Source) -> Result<Entrypoint, Failure> {
    let interface = args.interface.map(Into::into);
    match (args.entrypoint.as_deref(), source.single_file()) {
        (Some(text), _) => Entrypoint::parse(text, interface),
        (None, Some(file)) => Entrypoint::parse(file, interface),
        (None, None) => Err(Failure::usage("the entrypoint is missing").hint(format!(
            "write `aleph program upload {} ENTRYPOINT`: MODULE:NAME of a Python application, as main:app, or an \
             executable's path in it",
            args.path.display()
        ))),
    }
}

fn variables(given: &[Variable]) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let mut variables = BTreeMap::new();
    for variable in given {
        if variables.insert(variable.name.clone(), variable.value.clone()).is_some() {
            return Err(Failure::usage(format!("the variable {} is given twice", variable.name)));
        }
    }
    Ok((!variables.is_empty()).then_some(variables))
}

/// Says what is odd about code that is about to be uploaded.
pub(super) fn remark(context: &Context, source: &Source, oddity: Option<String>) {
    if let Some(oddity) = oddity {
        context.out.warn(printable(&oddity));
    }
    let secrets = source.secrets();
    if !secrets.is_empty() {
        context.out.warn(format!(
            "everything that is uploaded is public, and these files look like secrets: {}; list them in .alephignore",
            printable(&secrets.join(", "))
        ));
    }
}

/// Packs on another thread, so that Ctrl-C works meanwhile.
pub(super) async fn pack(
    context: &Context,
    source: Source,
    encoding: Option<protocol::message::program::Encoding>,
) -> Result<Packed> {
    let step = context.out.step("packing the code");
    let packed = tokio::task::spawn_blocking(move || source.pack(encoding)).await.context("packing failed")??;
    drop(step);
    context.out.note(format!("Packed {} into {}.", packed.contents, publish::size(packed.bytes)));
    Ok(packed)
}

/// Uploads packed code with the message that publishes it.
pub(super) async fn send_code(
    context: &Context,
    store: &Envelope,
    packed: &Packed,
    file: FileName,
    limit: Duration,
) -> Result<()> {
    let step = context.out.transfer("uploading the code", packed.bytes);
    publish::upload(context, &step, store, packed, file, limit).await
}

/// Publishes a program, and says what Ctrl-C leaves behind from then on.
pub(super) async fn publish_program(context: &Context, message: &Envelope, limit: Duration) -> Result<()> {
    let step = context.out.step("publishing the program");
    let id = &message.item_hash;
    context
        .interruption
        .leaves(format!("The program {id} may have been accepted: look with `aleph program find {id}`."));
    publish::publish(context, &step, message, "the program", limit).await?;
    context.interruption.leaves(format!("The program {id} goes on: look with `aleph program find {id}`."));
    Ok(())
}

/// Waits until a persistent program answers. When it fails, its last words are shown.
pub(super) async fn wait_until_ready(
    context: &Context,
    network: &Network,
    account: &Account,
    program: &ProgramId,
    takes_requests: bool,
    wait: &WaitArgs,
) -> Result<VmRecord> {
    let deadline = Instant::now() + Duration::from_secs(wait.wait_seconds);
    let error = match waiting::until_ready(context, network, program, takes_requests, deadline).await {
        Ok(record) => return Ok(record),
        Err(error) => error,
    };
    match error.downcast::<Failure>() {
        Ok(failure) if failure.code == Code::ProgramFailing => {
            Err(with_last_words(context, network, account, program, failure).await.into())
        }
        Ok(failure) => Err(failure.into()),
        Err(error) => Err(error),
    }
}

async fn with_last_words(
    context: &Context,
    network: &Network,
    account: &Account,
    program: &ProgramId,
    mut failure: Failure,
) -> Failure {
    // The failure itself is known; that its log cannot be had changes nothing about it.
    let lines = logs::last_lines(network, account, program, LAST_LINES).await.unwrap_or_default();
    if !lines.is_empty() {
        let text: String = lines.iter().map(|line| format!("\n  {}", printable(&line.message))).collect();
        context.out.note(format!("The last lines of its log:{text}\n"));
    }
    if let Some(Value::Object(details)) = &mut failure.details {
        details.insert("logs".to_owned(), lines.iter().map(|line| Value::from(line.message.as_str())).collect());
    }
    failure
}

fn metadata(args: &UploadArgs) -> Map<String, Value> {
    let name = args.name.clone().unwrap_or_else(|| default_name(&args.path));
    let mut metadata = Map::from_iter([("name".to_owned(), Value::from(name))]);
    let copies = args.copies.map(u64::from);
    let numbers = [("freeze_after", args.freeze_after), ("idle_after", args.idle_after), ("copies", copies)];
    metadata.extend(numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into()))));
    metadata.extend(args.isolation.map(|isolation| (Isolation::METADATA_KEY.to_owned(), isolation.as_str().into())));
    metadata
}

fn content(
    args: &UploadArgs,
    account: &Account,
    store: &Envelope,
    entrypoint: &Entrypoint,
    packed: &Packed,
    runtime: Runtime,
    variables: Option<BTreeMap<String, String>>,
) -> ProgramContent {
    let updatable = !args.no_updatable;
    let volumes = [&args.persistent_volume, &args.ephemeral_volume, &args.immutable_volume];
    ProgramContent {
        address: account.address().clone(),
        time: MessageTime::now(),
        allow_amend: updatable,
        metadata: Some(metadata(args)),
        authorized_keys: None,
        variables,
        environment: Environment { reproducible: false, internet: args.internet, aleph_api: true, shared_cache: false },
        resources: Resources {
            vcpus: args.vcpus,
            memory: args.memory,
            seconds: args.timeout_seconds,
            published_ports: None,
        },
        payment: Some(Payment { chain: Some(account.chain()), receiver: None, kind: PaymentKind::Hold }),
        requirements: None,
        volumes: volumes.into_iter().flatten().cloned().collect(),
        replaces: None,
        machine_type: MachineType::VmFunction,
        code: ProgramCode {
            encoding: packed.encoding,
            entrypoint: entrypoint.as_text(),
            reference: store.item_hash.clone(),
            interface: args.interface.map(Interface::from),
            args: None,
            use_latest: updatable,
        },
        runtime,
        data: None,
        export: None,
        on: Triggers { http: !args.no_http, message: None, persistent: Some(args.persistent) },
    }
}

/// The folder's name, or the file's without its ending.
fn default_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.and_then(|name| name.to_str()).unwrap_or("program").to_owned()
}

fn report(context: &Context, network: &Network, uploaded: &Uploaded, record: Option<&VmRecord>) -> Result<()> {
    let Uploaded { program, content, packed, file, code, price } = uploaded;
    let url = url_of(network, program, content, record);
    let value = json!({
        "item_hash": program,
        "name": content.name(),
        "kind": super::find::kind(content),
        "url": url,
        "code": { "item_hash": code, "file_hash": file.to_string(), "encoding": packed.encoding, "bytes": packed.bytes },
        "runtime": content.runtime.reference,
        "price": price.map(tokens),
        "state": record.map(|r| r.state),
        "node_id": record.and_then(|r| r.allocated_node),
        "node_url": record.and_then(|r| r.node_url.as_deref()),
        "epoch": record.and_then(|r| r.epoch),
    });
    context.out.result(&value, || {
        facts([
            ("Program", Some(program.to_string())),
            ("Name", content.name().map(printable)),
            ("URL", url.clone()),
            ("State", record.map(|r| r.state.as_str().to_owned())),
            ("Node", record.and_then(|r| r.allocated_node).map(|node| node.to_string())),
            ("Node URL", record.and_then(|r| r.node_url.as_deref()).map(printable)),
            ("Epoch", record.and_then(|r| r.epoch).map(|epoch| epoch.to_string())),
            ("Price", price.map(|price| format!("{} ALEPH to be held", tokens(price)))),
        ])
    })?;
    match (content.is_persistent(), record) {
        (true, Some(_)) => {}
        (true, None) => {
            context.out.note(format!("It was accepted. Look where it runs with `aleph program find {program}`."));
        }
        (false, _) if url.is_none() => context
            .out
            .note(format!("It runs on demand: the first request to /vm/{program} at any compute node starts it.")),
        (false, _) => context.out.note("It runs on demand: the first request starts it."),
    }
    Ok(())
}
