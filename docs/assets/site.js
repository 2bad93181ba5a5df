// Code that scrolls can be scrolled with the keyboard; the theme takes that back where it is out of sight.
for (const code of document.querySelectorAll("pre > code")) {
  const focusable = () => {
    if (code.tabIndex < 0 && code.scrollWidth > code.clientWidth) code.tabIndex = 0;
  };
  new MutationObserver(focusable).observe(code, { attributeFilter: ["tabindex"] });
  focusable();
}
