// Only so that phones show notifications, and open the page from them; nothing is cached.

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const hash = event.notification.data?.hash ?? "#inbox";
  event.waitUntil(
    self.clients.matchAll({ type: "window", includeUncontrolled: true }).then((pages) => {
      const page = pages[0];
      if (page === undefined) {
        return self.clients.openWindow(`/${hash}`);
      }
      page.postMessage({ open: hash });
      return page.focus();
    }),
  );
});
