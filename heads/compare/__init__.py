"""Everything that judges heads, and the page that shows it."""
