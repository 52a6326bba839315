"""Outside systems to try things on: a shop, billing and a CRM, with books of their own and faults on order.

Nothing here knows Handrail: it stands for what others run. It is an HTTP server of its own with its own database.
"""
