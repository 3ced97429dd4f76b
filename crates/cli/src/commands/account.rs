//! `aleph account …`

use std::io::Read;
use std::path::PathBuf;

use anyhow::Result;
use protocol::message::Chain;
use protocol::{Account, Address};
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{AccountCommand, CreateAccountArgs, GlobalArgs};
use crate::context::{Context, ask};
use crate::failure::{Code, Failure};
use crate::keys::{self, PythonConfig};
use crate::output::facts;
use crate::price::{from_number, tokens};
use crate::settings::{Origin, Settings};

/// The longest key that is read from standard input, in bytes.
const MAX_KEY_BYTES: u64 = 1024;

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, global: &GlobalArgs, command: AccountCommand) -> Result<()> {
    match command {
        AccountCommand::Create(args) => create(context, global, &args),
        AccountCommand::Show => show(context),
        AccountCommand::Balance { address } => balance(context, address).await,
        AccountCommand::Export { yes } => export(context, yes),
    }
}

/// Makes a new key in the default place and puts it in use.
///
/// # Errors
/// [`Failure`] when there is one already, or it cannot be written.
pub fn create_default(settings: &Settings) -> Result<(Account, PathBuf), Failure> {
    let account = Account::generate();
    let path = keys::default_file(&settings.home);
    keys::store(&account, &path, false)?;
    put_in_use(settings, &path, &Chain::Ethereum)?;
    Ok((account, path))
}

fn put_in_use(settings: &Settings, path: &std::path::Path, chain: &Chain) -> Result<(), Failure> {
    let path = std::path::absolute(path)
        .map_err(|e| Failure::new(Code::Config, format!("cannot find {}: {e}", path.display())))?;
    PythonConfig::write(&settings.home, &path, chain)?;
    keys::link_default(&settings.home, &path)
        .map_err(|e| Failure::new(Code::Config, format!("cannot link the key: {e}")))
}

fn create(context: &Context, global: &GlobalArgs, args: &CreateAccountArgs) -> Result<()> {
    let settings = &context.settings;
    let chain = keys::parse_chain(&args.chain)?;
    let account = match global.private_key.as_deref() {
        None => Account::generate(),
        Some("-") => import(&read_key()?, "standard input")?,
        Some(key) => import(key, "--private-key")?,
    };
    let path = match &global.private_key_file {
        Some(name) => keys::named_file(&settings.home, name),
        None => keys::default_file(&settings.home),
    };
    let backup = keys::store(&account, &path, args.replace)?;
    if !args.no_active {
        put_in_use(settings, &path, &chain)?;
    }
    let value = json!({
        "address": account.address(),
        "chain": chain,
        "key_file": path,
        "active": !args.no_active,
        "replaced": backup,
    });
    context.out.result(&value, || {
        facts([
            ("Address", Some(account.address().to_string())),
            ("Chain", Some(chain.to_string())),
            ("Key", Some(path.display().to_string())),
            ("Old key", backup.as_ref().map(|path| path.display().to_string())),
            ("In use", Some(if args.no_active { "no" } else { "yes" }.to_owned())),
        ])
    })?;
    context.out.note("Keep a copy of the key: who loses it loses the account.");
    if let Origin::Variable(variable) = settings.key.origin() {
        context.out.warn(format!("the variable {variable} is set and names another key, which is used instead"));
    }
    Ok(())
}

fn import(key: &str, source: &str) -> Result<Account, Failure> {
    Account::from_hex(key).map_err(|e| keys::not_usable(source, &e))
}

fn read_key() -> Result<Zeroizing<String>, Failure> {
    let mut key = Zeroizing::new(String::new());
    match std::io::stdin().take(MAX_KEY_BYTES).read_to_string(&mut key) {
        Ok(_) => Ok(key),
        Err(e) => Err(Failure::new(Code::NoKey, format!("cannot read the key from standard input: {e}"))),
    }
}

fn show(context: &Context) -> Result<()> {
    let settings = &context.settings;
    let account = context.account()?;
    let (file, origin) = (settings.key.file(), settings.key.origin());
    let value = json!({
        "address": account.address(),
        "chain": account.chain(),
        "key_file": file,
        "key_origin": origin.to_string(),
        "home": settings.home,
        "api_host": settings.api_host,
        "api_host_origin": settings.api_host_origin.to_string(),
    });
    context.out.result(&value, || {
        let key = file.map_or(origin.to_string(), |path| format!("{} ({origin})", path.display()));
        facts([
            ("Address", Some(account.address().to_string())),
            ("Chain", Some(account.chain().to_string())),
            ("Key", Some(key)),
            ("Message node", Some(format!("{} ({})", settings.api_host, settings.api_host_origin))),
            ("Folder", Some(settings.home.display().to_string())),
        ])
    })
}

async fn balance(context: &Context, address: Option<String>) -> Result<()> {
    let address = match address {
        Some(text) => text.parse::<Address>().map_err(|e| Failure::usage(e.to_string()))?,
        None => context.account()?.address().clone(),
    };
    let balance = context.node.balance(&address).await?;
    let (held, locked) = (from_number(balance.balance), from_number(balance.locked_amount));
    let available = held - locked;
    let value = json!({
        "address": address,
        "balance": balance.balance,
        "locked": balance.locked_amount,
        "available": tokens(available).parse::<serde_json::Number>()?,
        "details": balance.details,
    });
    context.out.result(&value, || {
        facts([
            ("Address", Some(address.to_string())),
            ("Balance", Some(format!("{} ALEPH", tokens(held)))),
            ("In use", Some(format!("{} ALEPH, by programs and files", tokens(locked)))),
            ("Available", Some(format!("{} ALEPH", tokens(available)))),
        ])
    })
}

fn export(context: &Context, yes: bool) -> Result<()> {
    let account = keys::load(&context.settings)?.ok_or_else(|| keys::no_key(&context.settings))?;
    if !yes && context.out.can_ask() && !ask("Print the private key? Who has it owns the account.", false)? {
        return Err(Failure::new(Code::Interrupted, "the key was not printed").into());
    }
    let key = Zeroizing::new(format!("0x{}", hex::encode(account.secret().as_slice())));
    context.out.warn(format!("who has this key owns {}; nobody else ever needs it", account.address()));
    context.out.result(&json!({ "address": account.address(), "private_key": key.as_str() }), || key.to_string())
}
