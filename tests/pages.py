"""Browser pages that record their errors."""


def listened(context):
    """Return a new page, and the list of messages it logs and requests that fail."""
    opened, logged = context.new_page(), []
    opened.set_default_timeout(30_000)
    opened.on("console", lambda message: logged.append(message.text))
    opened.on("pageerror", lambda error: logged.append(str(error)))
    # What is still under way when a page is left is broken off, which is no failure.
    failed = "requestfailed"
    opened.on(failed, lambda request: logged.append(request.url) if request.failure != "net::ERR_ABORTED" else None)
    return opened, logged


def check_help_and_theme_keys(page):
    """Press the keys that the pages share."""
    page.locator("h1").click()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    assert page.locator("#help button").evaluate("button => button === document.activeElement")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"


def controls(page):
    """Return the role and the name of each control of a page, as a screen reader knows them."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [(_value(node, "role"), _value(node, "name").strip()) for node in nodes if _is_control(node)]


def _is_control(node):
    properties = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
    return not node["ignored"] and bool(properties.get("focusable")) and _value(node, "role") != "RootWebArea"


def _value(node, name):
    return node.get(name, {}).get("value", "")
