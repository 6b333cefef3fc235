"""A page on this machine: drop photos or choose a scan, ask, see the answer and its sources."""

from spa3r.extras import needed_for

with needed_for("the chat page", "chat"):
    from spa3r.chat_page.server import ChatPage

__all__ = ["ChatPage"]
