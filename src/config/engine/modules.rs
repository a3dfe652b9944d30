//! ES modules in the engine: where an import leads, and what it loads.

use rquickjs::loader::ImportAttributes;
use rquickjs::module::{Declared, Evaluated};
use rquickjs::{Ctx, Error, Exception, Function, Module, Object, Promise};
use std::path::Path;

/// Resolves as the prelude does for `require`.
pub(super) struct Resolver;

/// Loads files, and stand-ins for what is no ES module.
pub(super) struct Loader;

/// A call of the prelude.
fn own<'js>(ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Function<'js>> {
    ctx.globals().get::<_, Object<'js>>("__fornax")?.get(name)
}

impl rquickjs::loader::Resolver for Resolver {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        own(ctx, "resolve")?.call((name, base))
    }
}

impl rquickjs::loader::Loader for Loader {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        if name.starts_with("node:") || !own(ctx, "isModule")?.call::<_, bool>((name,))? {
            let text: String = own(ctx, "standIn")?.call((name,))?;
            return Module::declare(ctx.clone(), name, text);
        }
        declare(ctx, name)
    }
}

/// A file, with `import.meta`.
fn declare<'js>(ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Module<'js, Declared>> {
    let path = Path::new(name);
    let text = super::host::read(path, super::FILE)
        .map_err(|error| Exception::throw_message(ctx, &format!("cannot read {name}: {error}")))?;
    let text = text
        .strip_prefix("\u{feff}".as_bytes())
        .map_or_else(|| text.clone(), <[u8]>::to_vec);
    let module = Module::declare(ctx.clone(), name, text)?;
    let meta = module.meta()?;
    if let Ok(url) = url::Url::from_file_path(path) {
        meta.set("url", url.as_str())?;
    }
    meta.set("filename", name)?;
    meta.set(
        "dirname",
        path.parent()
            .map_or_else(String::new, |folder| folder.to_string_lossy().into_owned()),
    )?;
    Ok(module)
}

/// Evaluates a file and what it imports, and returns its exports.
pub(super) fn evaluate(ctx: Ctx<'_>, name: String) -> rquickjs::Result<Object<'_>> {
    let (module, promise): (Module<'_, Evaluated>, Promise<'_>) = declare(&ctx, &name)?.eval()?;
    match promise.finish::<()>() {
        Err(Error::WouldBlock) => Err(Exception::throw_message(
            &ctx,
            "it awaits something that never comes",
        )),
        Err(error) => Err(error),
        Ok(()) => module.namespace(),
    }
}
