-- SPDX-License-Identifier: Apache-2.0
-- One turn of the shop's application, for pgbench -f: an order, a payment, a price, a visit, a return.
\set customer random(1, 5000)
\set product random(1, 2000)
\set old_order random(1, 20000)
\set dice random(1, 100)
BEGIN;
INSERT INTO orders (customer_id, note) VALUES (:customer, 'from traffic') RETURNING id AS order_id \gset
INSERT INTO order_line SELECT :order_id, l, 1 + (:product + l) % 2000, l, l * 1.5 FROM generate_series(1, 2) l;
COMMIT;
BEGIN;
UPDATE orders SET state = 'paid' WHERE id = :order_id;
UPDATE customer SET profile = profile || jsonb_build_object('orders', :order_id), tags = ARRAY['seen'] WHERE id = :customer;
SAVEPOINT s;
UPDATE product SET price = price + 1 WHERE id = :product;
\if :dice > 90
ROLLBACK TO SAVEPOINT s;
\endif
INSERT INTO visit (day, url, agent) VALUES (date '2025-12-01' + (:dice % 60)::int, '/order', '::1');
COMMIT;
\if :dice > 80
DELETE FROM orders WHERE id = :old_order;
INSERT INTO event_log (what, amount) VALUES ('returned', :dice);
\endif
\if :dice = 50
UPDATE product SET description = description || md5(:dice::text) WHERE id = :product;
DELETE FROM event_log WHERE ctid = (SELECT ctid FROM event_log LIMIT 1);
\endif
