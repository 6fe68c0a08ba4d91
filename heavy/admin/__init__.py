"""The admin pages: the API of administrators as pages that a server renders, for a browser, a keyboard and a screen reader."""
