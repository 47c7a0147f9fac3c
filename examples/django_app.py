"""
Live quotes in a Django project, here in one file. Only what is marked stands in one's own ``asgi.py``::

    uvicorn examples.django_app:application
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -d '{"bid": "4102.1", "ask": "4102.4"}' http://127.0.0.1:8000/quotes/ETH-USD
"""

import json

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from rtsync import RTSync, Settings, public

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"], SECRET_KEY="for this example only")

rt = RTSync(Settings.from_env().replace(autostart=True))  # asgi.py; daphne, which Django's users often run, starts nothing
prices = rt.state("prices:{symbol}", access=public)


@csrf_exempt
@require_http_methods(["PUT"])
async def put_quote(request: HttpRequest, symbol: str) -> HttpResponse:
    await prices.channel(symbol).set(json.loads(request.body))
    return HttpResponse(status=204)


urlpatterns = [path("quotes/<symbol>", put_quote)]
application = rt.wrap(get_asgi_application())  # asgi.py
